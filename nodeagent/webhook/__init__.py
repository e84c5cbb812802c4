"""The admission webhook: judges and completes pools, Subnets and ReservedIPs before they are stored. Optional; the leader judges anyway."""
