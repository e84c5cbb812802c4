"""The agent: one per node. It answers CNI from addresses that it leased and verified ahead of demand."""

# First of all imports: structlog looks for rich when it is imported, and finding it costs 3.4 MiB that an agent has no use for.
import adapters.telemetry  # noqa: F401
