"""The lab: a cluster of network namespaces on one machine, around the real agent, the real shim and the real macvlan plugin.

Guarantees: it touches nothing of the machine's own network; however it ends (finished, failed, Ctrl-C), nothing of it is left; after its own
SIGKILL its processes die with it, and the next lab removes the rest. What it plays itself: controllers, scheduler, kubelets and the container
runtime (`cluster_model`). What it does not have: processes inside pods, kube-proxy, image pulls.

`make lab [SCENARIO=name] [NODES=n] [JSON=1]` runs a scenario; `nephila lab up`, `shell`, `down` keep one open.
"""
