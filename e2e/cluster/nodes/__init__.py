"""Real nodes for the real control plane: each a set of namespaces with its own containerd and kubelet (see README.md)."""
