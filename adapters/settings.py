"""Settings that several programs share."""

from __future__ import annotations

import msgspec

from adapters.kube.transport import Explicit, Kubeconfig, Source, default_source


class ApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """How the API server is reached: `url` (plain, for labs), else `kubeconfig`, else the pod's service account."""

    url: str = ""  # a plain URL, for labs
    kubeconfig: str = ""  # a kubeconfig file; neither this nor url: the pod's service account
    context: str = ""  # the kubeconfig's context; "": its current one

    def source(self) -> Source:
        """What `adapters.kube.transport.connect` needs."""
        if self.url:
            return Explicit(self.url)
        if self.kubeconfig:
            return Kubeconfig(self.kubeconfig, self.context)
        return default_source()


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What `/metrics` shows besides Nephila's own names."""

    spiderpool_names: bool = True  # the documented names of Spiderpool, for dashboards made for it
    spiderpool_debug_names: bool = False  # its `debug_` names too: per pool, with labels that promtool's linter refuses
