"""What is read out of kube-proxy's rules; the text is `nft list ruleset` of Kubernetes 1.37.2, shortened."""

from __future__ import annotations

from e2e.cluster.nodes.kubeproxy import targets

RULES = """table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.81.33 . tcp . 443 : goto service-DDVBCIUL-nephila-system/nephila-webhook/tcp/webhook }
	}

	chain service-DDVBCIUL-nephila-system/nephila-webhook/tcp/webhook {
		meta l4proto tcp dnat %s
	}

	chain service-LAUZTJTB-nephila-system/other/tcp/p80 {
		meta l4proto tcp dnat to 10.6.250.9:80
	}
}
"""


def test_the_targets_of_one_service_are_its_own_whether_one_or_several() -> None:
    several = "ip addr . port to numgen random mod 2 map { 0 : 10.6.250.1 . 9809, 1 : 10.6.250.2 . 9809 }"
    service = "nephila-system/nephila-webhook"
    assert targets(RULES % "to 10.6.250.1:9809", service) == {"10.6.250.1:9809"}
    assert targets(RULES % several, service) == {"10.6.250.1:9809", "10.6.250.2:9809"}
    assert targets(RULES % several, "nephila-system/none") == set()
