"""A real Kubernetes control plane (etcd, kube-apiserver, controller-manager, scheduler) on loopback, for tests."""
