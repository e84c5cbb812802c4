"""What the chart installs, for several sets of values, asserted on parsed objects."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import helm_python as helm  # type: ignore[import-not-found,unused-ignore]  # in .venv-chart only
import kubernetes_validate  # type: ignore[import-not-found,unused-ignore]
import pytest
import yaml

from tests.chart.rendering import CASES, CHART, NAMESPACE, ROOT, VERSION, Object, render, rendered, values_of

each_case = pytest.mark.parametrize("case", CASES)
CUSTOM = {"PodMonitor", "PrometheusRule"}


@each_case
def test_every_object_is_valid_kubernetes(case: str) -> None:
    for item in rendered(case).objects:
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(dict(item), VERSION, strict=True)


@each_case
def test_lint_finds_nothing(case: str) -> None:
    found = helm.lint(str(CHART), values_of(case), namespace=NAMESPACE)
    assert not [text for text in str(found).splitlines() if "ERROR" in text or "WARNING" in text], found


@each_case
def test_names_are_used_once_and_labels_and_annotations_are_on_everything(case: str) -> None:
    names = [
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in rendered(case).objects
    ]
    assert len(set(names)) == len(names)
    for item in rendered(case).objects:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "nephila", item["metadata"]["name"]
        assert labels.items() >= values_of(case).get("commonLabels", {}).items(), item["metadata"]["name"]
        annotations = item["metadata"].get("annotations", {})
        assert annotations.items() >= values_of(case).get("commonAnnotations", {}).items(), item["metadata"]["name"]


WRONG: dict[str, dict[str, Any]] = {
    "a misspelt key": {"agnet": {}},
    "a misspelt key inside": {"agent": {"resource": {}}},
    "a setting that no agent knows": {"agent": {"settings": {"parentInterface": "eth0"}}},
    "a setting of a wrong type": {"agent": {"settings": {"lease": {"heartbeatS": "often"}}}},
    "a setting that the chart says itself": {"agent": {"settings": {"socket": "/tmp/x"}}},
    "a setting that no leader knows": {"leader": {"settings": {"quorum": 3}}},
    "an unknown way to take pins": {"policies": {"pinTakeover": "Always"}},
    "a relative path": {"cni": {"binDir": "opt/cni/bin"}},
    "no replica": {"leader": {"replicas": 0}},
    "a digest that is none": {"image": {"digest": "sha256:12"}},
    "an impossible port": {"agent": {"health": {"port": 70000}}},
    "an unknown failure policy": {"webhook": {"failurePolicy": "Maybe"}},
    "a share of nothing": {"agent": {"maxUnavailable": "0%"}},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused_before_anything_is_rendered(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        render(values)


def test_an_older_cluster_is_refused_by_the_chart() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == ">=1.32.0-0"


# Who runs, with what rights -------------------------------------------------------------------------------------------------------------


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


@each_case
def test_one_container_a_pod_and_no_more_rights_than_needed(case: str) -> None:
    for name, spec in rendered(case).pods():
        assert len(spec["containers"]) == 1, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.get("hostPID"), name
        assert not spec.get("hostIPC"), name
        for container in containers(spec):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert not context.get("privileged")
            assert context["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["limits"]["memory"]


def added(case: str) -> list[str]:
    agent: Object = rendered(case).one("DaemonSet")["spec"]["template"]["spec"]["containers"][0]
    return list(agent["securityContext"]["capabilities"]["add"])


def test_the_agent_has_bpf_only_where_it_uses_it() -> None:
    assert added("full") == ["NET_ADMIN", "NET_RAW", "BPF"]
    assert added("packet") == added("default") == ["NET_ADMIN", "NET_RAW"]


def test_only_the_agent_adds_capabilities_or_mounts_the_host() -> None:
    for case in CASES:
        for name, spec in rendered(case).pods():
            if name == "nephila-agent":
                continue
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume], name
            for container in containers(spec):
                assert "add" not in container["securityContext"]["capabilities"], name


@each_case
def test_a_drain_can_move_the_leader(case: str) -> None:
    """kubectl refuses pods with an emptyDir unless it is told to delete their data; the agent's are a DaemonSet's, which it leaves alone."""
    for name, spec in rendered(case).pods():
        if name != "nephila-agent":
            assert not [volume for volume in spec.get("volumes", ()) if "emptyDir" in volume], name


def test_the_hosts_namespaces_are_seen_read_only_and_as_they_appear() -> None:
    agent = rendered("full").one("DaemonSet")["spec"]["template"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount for mount in agent["volumeMounts"]}
    assert mounts["netns"] == {
        "name": "netns",
        "mountPath": "/var/run/netns",
        "mountPropagation": "HostToContainer",
        "readOnly": True,
    }
    assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {"run", "state", "tmp", "bpffs"}


def test_the_init_container_only_installs_the_binary() -> None:
    spec = rendered("full").one("DaemonSet")["spec"]["template"]["spec"]
    [init] = spec["initContainers"]
    assert init["image"] == spec["containers"][0]["image"]
    assert init["command"][:3] == ["python", "-m", "cni.install"]
    assert init["args"] == ["--name", "nephila"]
    assert [mount["name"] for mount in init["volumeMounts"]] == ["cni-bin"]
    assert {"name": "cni-bin", "hostPath": {"path": "/usr/libexec/cni", "type": "DirectoryOrCreate"}} in spec["volumes"]
    assert "args" not in rendered("default").one("DaemonSet")["spec"]["template"]["spec"]["initContainers"][0]


def test_the_agent_survives_everything_and_is_updated_one_by_one() -> None:
    agent = rendered("default").one("DaemonSet")["spec"]
    spec = agent["template"]["spec"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["hostNetwork"] is True
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert agent["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0},
    }
    assert "readiness" not in str(spec["containers"][0]["livenessProbe"])  # an API outage must not restart it


def test_two_leaders_never_share_a_host() -> None:
    leader = rendered("default").one("Deployment")["spec"]
    [rule] = leader["template"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchLabels"].items() <= leader["template"]["metadata"]["labels"].items()
    assert leader["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@each_case
def test_selectors_match_their_pods_and_stay_as_they_are(case: str) -> None:
    for kind in ("DaemonSet", "Deployment"):
        for item in rendered(case).all(kind):
            selector = item["spec"]["selector"]["matchLabels"]
            assert set(selector) == {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")}
            assert selector.items() <= item["spec"]["template"]["metadata"]["labels"].items()


# RBAC, policies, CRDs -------------------------------------------------------------------------------------------------------------------


def generated(path: str) -> list[Any]:
    return list(yaml.safe_load_all((ROOT / "crds/yaml" / path).read_text()))


def test_each_program_has_its_own_account_with_the_generated_rules() -> None:
    rendering = rendered("default")
    accounts = {name: spec["serviceAccountName"] for name, spec in rendering.pods()}
    assert accounts == {
        "nephila-agent": "nephila-agent",
        "nephila-leader": "nephila-leader",
        "nephila-test": "nephila-test",
    }
    for account in ("nephila-agent", "nephila-leader"):
        assert rendering.one("ClusterRole", account)["rules"] == generated(f"roles/{account}.yaml")[0]["rules"]
        assert rendering.one("ClusterRoleBinding", account)["subjects"] == [
            {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
        ]


def test_no_role_of_a_program_names_everything_or_secrets() -> None:
    for role in rendered("default").all("ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"], role["metadata"]["name"]
            assert "*" not in rule["apiGroups"]
            assert not {"secrets", "serviceaccounts/token", "pods/exec"} & set(rule["resources"])
            if role["metadata"]["name"] in ("nephila-agent", "nephila-leader"):
                assert "*" not in rule["resources"]


def test_there_is_no_webhook_unless_it_is_asked_for() -> None:
    kinds = {item["kind"] for item in rendered("default").objects}
    assert not kinds & {"Secret", "Service", "Role", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
    assert "webhook" not in yaml.safe_load(
        rendered("default").one("ConfigMap", "nephila-settings")["data"]["agent.yaml"]
    )


def test_the_webhook_is_where_its_configurations_say() -> None:
    rendering = rendered("full")
    settings = rendering.one("ConfigMap", "nephila-settings")["data"]
    assert yaml.safe_load(settings["agent.yaml"])["webhook"] == {"address": ":9900"}
    assert yaml.safe_load(settings["leader.yaml"])["webhook"] == {"enabled": True, "namespace": NAMESPACE}
    (port,) = rendering.one("Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (443, 9900)
    pod = rendering.one("DaemonSet")["spec"]["template"]
    assert rendering.one("Service")["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    for file in ("mutating", "validating"):
        (expected,) = generated(f"webhooks/{file}.yaml")
        found = rendering.one(expected["kind"], "nephila")
        for webhook, wanted in zip(found["webhooks"], expected["webhooks"], strict=True):
            assert (webhook["failurePolicy"], webhook["timeoutSeconds"]) == ("Fail", 5)
            assert webhook["clientConfig"]["service"]["namespace"] == NAMESPACE
            assert f"system:serviceaccount:{NAMESPACE}:nephila-leader" in webhook["matchConditions"][0]["expression"]
            assert webhook["rules"] == wanted["rules"]


def test_the_leader_may_touch_one_secret_and_two_configurations_and_nodes_see_no_more_than_they_serve() -> None:
    rendering = rendered("full")
    role, cluster_role = rendering.one("Role"), rendering.one("ClusterRole", "nephila-leader-webhook")
    assert role["metadata"]["namespace"] == rendering.one("Secret")["metadata"]["namespace"] == NAMESPACE
    names = [(rule["resourceNames"], rule["verbs"]) for rule in (*role["rules"], *cluster_role["rules"])]
    assert names == [(["nephila-webhook"], ["get", "patch"]), (["nephila"], ["get", "patch"])]
    for binding in (rendering.one("RoleBinding"), rendering.one("ClusterRoleBinding", "nephila-leader-webhook")):
        assert [subject["name"] for subject in binding["subjects"]] == ["nephila-leader"]
    volumes = rendering.one("DaemonSet")["spec"]["template"]["spec"]["volumes"]
    (shown,) = (volume["secret"] for volume in volumes if "secret" in volume)
    assert [item["key"] for item in shown["items"]] == ["tls.crt", "tls.key"]
    assert shown["optional"] is True


def test_spiderpools_configuration_is_mounted_where_both_programs_look() -> None:
    rendering = rendered("full")
    for kind, program in (("DaemonSet", "agent"), ("Deployment", "leader")):
        pod = rendering.one(kind)["spec"]["template"]["spec"]
        (name,) = (
            item["name"] for item in pod["volumes"] if item.get("configMap", {}).get("name") == "spiderpool-conf"
        )
        (path,) = (item["mountPath"] for item in pod["containers"][0]["volumeMounts"] if item["name"] == name)
        settings = yaml.safe_load(rendering.one("ConfigMap", "nephila-settings")["data"][f"{program}.yaml"])
        assert settings["spiderpoolConf"] == path


def test_a_webhook_without_a_leader_is_refused() -> None:
    with pytest.raises(helm.HelmError, match="nobody makes the certificate"):
        render({"webhook": {"enabled": True}, "leader": {"enabled": False}})


def test_policies_are_about_the_account_of_this_release() -> None:
    policies = rendered("default").all("ValidatingAdmissionPolicy")
    assert len(policies) == len(rendered("default").all("ValidatingAdmissionPolicyBinding")) == 4
    for policy in policies:
        [condition] = policy["spec"]["matchConditions"]
        assert (
            condition["expression"] == f"request.userInfo.username == 'system:serviceaccount:{NAMESPACE}:nephila-agent'"
        )
        assert policy["spec"]["failurePolicy"] == "Fail"


@pytest.mark.parametrize(("case", "file"), [("default", "ipblocks"), ("full", "ipblocks-vacant")])
def test_policies_say_what_was_tested(case: str, file: str) -> None:
    wanted = generated(f"policies/{file}.yaml")[0]["spec"]
    found = deepcopy(rendered(case).one("ValidatingAdmissionPolicy", "nephila-agent-ipblocks")["spec"])
    assert found["validations"] == wanted["validations"]
    assert found["variables"] == wanted["variables"]


def test_crds_are_the_generated_ones_and_are_kept() -> None:
    crds = {crd["metadata"]["name"]: crd for crd in rendered("default").all("CustomResourceDefinition")}
    wanted = [document for path in (ROOT / "crds/yaml").glob("*.yaml") for document in generated(path.name)]
    assert set(crds) == {document["metadata"]["name"] for document in wanted}
    for document in wanted:
        crd = crds[document["metadata"]["name"]]
        assert crd["spec"] == document["spec"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert rendered("minimal").all("CustomResourceDefinition") == []


# Settings and monitoring ----------------------------------------------------------------------------------------------------------------


def settings(case: str, program: str) -> Any:
    return yaml.safe_load(rendered(case).one("ConfigMap", "nephila-settings")["data"][f"{program}.yaml"])


def test_the_leader_hears_of_the_agents_settings_that_concern_it() -> None:
    assert settings("full", "agent")["lease"]["leaseS"] == settings("full", "leader")["reclaim"]["agentLeaseS"] == 120
    assert settings("full", "leader")["reclaim"]["unreachable"] == "Confirm"
    assert settings("full", "leader")["applications"] == {"enableIPv6": False}


def test_metrics_leave_the_host_only_when_somebody_collects_them() -> None:
    assert settings("default", "agent")["healthAddress"] == "127.0.0.1:9807"
    assert settings("full", "agent")["healthAddress"] == ":9807"
    assert settings("full", "leader")["healthAddress"] == ":9808"


def test_a_change_of_settings_restarts_the_pods() -> None:
    def checksum(rendering: Any) -> str:
        return str(rendering.one("DaemonSet")["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert checksum(render({})) == checksum(render({"leader": {"replicas": 3}}))
    assert checksum(render({})) != checksum(render({"agent": {"settings": {"parent": "eth1"}}}))


def test_pods_are_scraped_at_a_port_that_they_have() -> None:
    rendering = rendered("full")
    for monitor in rendering.all("PodMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        workloads = [*rendering.all("DaemonSet"), *rendering.all("Deployment")]
        [pod] = [
            w["spec"]["template"]
            for w in workloads
            if selector.items() <= w["spec"]["template"]["metadata"]["labels"].items()
        ]
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    assert len(rendering.all("PodMonitor")) == 2


def test_every_alert_names_its_runbook() -> None:
    [rule] = rendered("full").all("PrometheusRule")
    alerts = [entry for group in rule["spec"]["groups"] for entry in group["rules"] if "alert" in entry]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"https://example.com/runbooks/{alert['alert']}.md"
        assert (ROOT / "docs" / "runbooks" / f"{alert['alert']}.md").exists(), alert["alert"]


def test_the_alerts_and_the_dashboard_are_those_that_are_tested() -> None:
    files = ROOT / "helm" / "nephila" / "files"
    [rule] = rendered("full").all("PrometheusRule")
    names = {entry["alert"] for group in rule["spec"]["groups"] for entry in group["rules"]}
    tested = yaml.safe_load((files / "alerts.yaml").read_text())
    assert names == {entry["alert"] for group in tested["groups"] for entry in group["rules"]}
    [dashboard] = [item for item in rendered("full").all("ConfigMap") if "nephila.json" in item["data"]]
    assert json.loads(dashboard["data"]["nephila.json"]) == json.loads((files / "dashboard.json").read_text())


def test_notes_warn_of_what_is_off() -> None:
    notes = rendered("minimal").notes
    assert "not verified" in notes
    assert "policies.enabled is false" in notes
    assert "policies.enabled" not in rendered("full").notes
