"""Who may call whom, as NetworkPolicies say it.

A call passes when the caller's policies allow it to leave and the called one's to enter. A pod that no policy selects
for a direction is open in it; one that several do may whatever any of them allows
(https://kubernetes.io/docs/concepts/services-networking/network-policies/).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network

from rendering import Json, Rendering, Workload

NAMESPACE = "kubernetes.io/metadata.name"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod by its labels and namespace; or somebody outside of the cluster, who has an address and no labels."""

    name: str
    labels: Mapping[str, str]
    namespace: str = "holdfast"
    address: str = "10.244.0.1"

    def __hash__(self) -> int:
        return hash((self.name, self.address))


def pod_of(workload: Workload, *, namespace: str = "holdfast") -> Pod:
    return Pod(name=workload.name, labels=workload.labels, namespace=namespace)


def outside(address: str) -> Pod:
    return Pod(name=address, labels={}, namespace="", address=address)


def allowed(rendering: Rendering, caller: Pod, called: Pod, port: int, *, protocol: str = "TCP") -> bool:
    return leaves(rendering, caller, called, port, protocol=protocol) and enters(
        rendering, caller, called, port, protocol=protocol
    )


def leaves(rendering: Rendering, caller: Pod, called: Pod, port: int, *, protocol: str = "TCP") -> bool:
    """Whether the caller's own policies let it out."""
    return _passes(rendering, caller, called, port, protocol, ("Egress", "egress", "to"))


def enters(rendering: Rendering, caller: Pod, called: Pod, port: int, *, protocol: str = "TCP") -> bool:
    """Whether the policies of the one that is called let the caller in."""
    return _passes(rendering, called, caller, port, protocol, ("Ingress", "ingress", "from"))


def _passes(
    rendering: Rendering, pod: Pod, peer: Pod, port: int, protocol: str, direction: tuple[str, str, str]
) -> bool:
    policy_type, field, peers = direction
    policies = [
        policy["spec"] for policy in _policies_of(rendering, pod) if policy_type in policy["spec"]["policyTypes"]
    ]
    rules = [rule for policy in policies for rule in policy.get(field, [])]
    return not policies or any(
        _is_port(rule.get("ports"), port, protocol) and _is_peer(rule.get(peers), peer, pod) for rule in rules
    )


def _policies_of(rendering: Rendering, pod: Pod) -> Iterator[Json]:
    for policy in rendering.of_kind("NetworkPolicy"):
        if pod.namespace == policy["metadata"]["namespace"] and _matches(policy["spec"]["podSelector"], pod.labels):
            yield policy


def _is_port(ports: Iterable[Json] | None, port: int, protocol: str) -> bool:
    return not ports or any((it["port"], it.get("protocol", "TCP")) == (port, protocol) for it in ports)


def _is_peer(peers: Iterable[Json] | None, other: Pod, pod: Pod) -> bool:
    """Without peers, or with none of them, everybody is."""
    return not peers or any(_is_one(peer, other, pod) for peer in peers)


def _is_one(peer: Json, other: Pod, pod: Pod) -> bool:
    if block := peer.get("ipBlock"):
        address = ip_address(other.address)
        # What a block means for pods differs between network plug-ins: here, nothing.
        return (
            not other.labels
            and _is_in(address, block["cidr"])
            and not any(_is_in(address, part) for part in block.get("except", []))
        )
    if "namespaceSelector" in peer:
        in_namespace = other.namespace != "" and _matches(peer["namespaceSelector"], {NAMESPACE: other.namespace})
    else:
        in_namespace = other.namespace == pod.namespace
    return in_namespace and _matches(peer.get("podSelector", {}), other.labels)


_network = cache(ip_network)


def _is_in(address: object, network: str) -> bool:
    return address in _network(network)


def _matches(selector: Json, labels: Mapping[str, str]) -> bool:
    """By labels alone: the chart uses no expressions here."""
    assert selector.keys() <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()
