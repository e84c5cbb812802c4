import sys

from nodeagent.service import main

sys.exit(main())
