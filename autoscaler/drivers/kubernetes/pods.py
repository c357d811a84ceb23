"""Pods and the scale, as the driver needs them, and which pods a scale-in would remove. Pure.

Owns the annotations, the deletion costs, and the ReplicaSet controller's order as far as it can be
known from outside: unready pods go first, then those with the lowest `pod-deletion-cost`.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

LEAVING: Final = "liveroom.dev/leaving"
TEMPLATE: Final = "pod-template-hash"
COST: Final = "controller.kubernetes.io/pod-deletion-cost"
LEAVING_COST: Final = -100_000
DUE_COST: Final = -200_000  # below the pods that still drain


class Meta(msgspec.Struct, rename="camel"):
    """What is read of any object's metadata."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class Condition(msgspec.Struct):
    """A pod's condition."""

    type: str
    status: str


class PodSpec(msgspec.Struct, rename="camel"):
    """What is read of a pod's spec."""

    node_name: str = ""


class ContainerState(msgspec.Struct):
    """What is read of a container's state: whether it waits."""

    waiting: msgspec.Raw | None = None


class ContainerStatus(msgspec.Struct):
    """What is read of a container's status."""

    state: ContainerState = msgspec.field(default_factory=ContainerState)


class PodStatus(msgspec.Struct, rename="camel"):
    """What is read of a pod's status."""

    phase: str = ""
    conditions: list[Condition] = []
    container_statuses: list[ContainerStatus] = []


class Pod(msgspec.Struct):
    """What is read of a pod."""

    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def name(self) -> str:
        """The gateway's id."""
        return self.metadata.name

    @property
    def is_alive(self) -> bool:
        """Whether the ReplicaSet counts it; the phase of a terminating pod still reads Running."""
        return self.metadata.deletion_timestamp is None and self.status.phase not in {"Succeeded", "Failed"}

    @property
    def is_leaving(self) -> bool:
        """Whether it drains."""
        return LEAVING in self.metadata.annotations

    @property
    def is_due(self) -> bool:
        """Whether it should go now: it is empty, or took too long to drain."""
        return self.is_leaving and cost_of(self.metadata.annotations) <= DUE_COST

    @property
    def runs(self) -> bool:
        """Whether it may have viewers; a pod without a node, an image or a process has none."""
        return self.status.phase == "Running" and not any(one.state.waiting for one in self.status.container_statuses)

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """The order in which a scale-in removes pods, the lowest first.

        It is the ReplicaSet controller's, as far as that is known from outside.
        """
        is_ready = any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)
        return bool(self.spec.node_name), self.status.phase == "Running", is_ready, cost_of(self.metadata.annotations)


class Pods(msgspec.Struct):
    """A list of pods."""

    items: list[Pod] = []


class ScaleSpec(msgspec.Struct):
    """What is read of a scale's spec."""

    replicas: int = 0


class ScaleStatus(msgspec.Struct):
    """What is read of a scale's status."""

    selector: str = ""


class Scale(msgspec.Struct):
    """What is read of a Deployment's scale; its metadata are the Deployment's."""

    metadata: Meta
    spec: ScaleSpec = msgspec.field(default_factory=ScaleSpec)
    status: ScaleStatus = msgspec.field(default_factory=ScaleStatus)


def why_not(alive: Iterable[Pod], due: Iterable[Pod], replicas: int) -> str:
    """Return why the scale must not be lowered by the pods that are due; empty: it may be.

    The ReplicaSet must have carried out the last change, and the pods it would remove must be due,
    or must never have served anybody.
    """
    alive, due = list(alive), list(due)
    if len(alive) != replicas:
        return f"{len(alive)} pods of {replicas} are there"
    if len({pod.metadata.labels.get(TEMPLATE, "") for pod in alive}) > 1:
        return "a new version is being rolled out"
    names = {pod.name for pod in due}
    first = sorted(alive, key=lambda pod: (pod.rank, pod.name in names))[: len(due)]  # of equals it may take any
    others = [pod.name for pod in first if pod.name not in names and pod.runs]
    return f"{', '.join(others)} would go first" if others else ""


def cost_of(annotations: Mapping[str, str]) -> int:
    """Return a pod's deletion cost; 0 where it has none, or one that is no number."""
    try:
        return int(annotations.get(COST, "0"))
    except ValueError:
        return 0  # as the controller has it
