import sys

from leader.service import main

sys.exit(main())
