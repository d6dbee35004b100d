"""The pods of a rendered chart as containers on one network: as much of a cluster as one engine can be.

User, read-only root, capabilities, memory, files, command and arguments are the pod's, and so are the names of the
Services that select it. A volume that is written to is a tmpfs here. Probes, CPU limits and accounts are not played.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from engine import attempt, docker
from holdfast_local.placement import passable_folder
from pod_files import files_of
from pod_security import quantity
from rendering import Json, Rendering, Workload
from waiting import eventually
from wiring import selected

JOB_SECONDS = 240
"""In which a Job has to succeed, its repetitions included: a busy machine starts 17 pods at once."""


@dataclass(frozen=True)
class Pods:
    rendering: Rendering
    network: str
    folder: Path

    async def start(self, workload: Workload) -> str:
        """Start its pod, once what prepares it has ended well; a Job is done when this returns. The pod's name."""
        for container in workload.pod.get("initContainers", []):
            await self.succeed(workload, container)
        (container,) = workload.pod["containers"]
        name = f"{self.network}-{workload.object['metadata']['name']}"
        if workload.object["kind"] == "Job":
            await eventually(lambda: self._has_succeeded(workload, container), seconds=JOB_SECONDS)
            return name
        options = [f"--network-alias={alias}" for alias in self._services_of(workload)]
        await docker("run", "--detach", f"--name={name}", *options, *self._arguments(workload, container))
        return name

    async def succeed(self, workload: Workload, container: Json) -> str:
        """What the container writes until it has ended well; fails when it does not."""
        return await docker("run", "--rm", *self._arguments(workload, container))

    async def _has_succeeded(self, workload: Workload, container: Json) -> bool:
        return (await attempt("run", "--rm", *self._arguments(workload, container)))[0] == 0

    def _services_of(self, workload: Workload) -> list[str]:
        services = self.rendering.of_kind("Service")
        chosen = [it for it in services if selected(self.rendering, it["spec"]["selector"]) == [workload]]
        return [service["metadata"]["name"] for service in chosen]

    def _arguments(self, workload: Workload, container: Json) -> list[str]:
        """Of `docker run`."""
        context = workload.pod["securityContext"] | container["securityContext"]
        command = container.get("command", [])
        return [
            f"--network={self.network}",
            f"--user={context['runAsUser']}:{context['runAsGroup']}",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            *(["--read-only"] if context["readOnlyRootFilesystem"] else []),
            f"--memory={int(quantity(container['resources']['limits']['memory']))}",
            *[f"--env={variable['name']}={variable['value']}" for variable in container.get("env", [])],
            *self._mounts(workload, container),
            *[f"--entrypoint={program}" for program in command[:1]],
            container["image"],
            *command[1:],
            *container.get("args", []),
        ]

    def _mounts(self, workload: Workload, container: Json) -> list[str]:
        files = files_of(self.rendering, workload, container)
        options, user = [], workload.pod["securityContext"]["runAsUser"]
        for mount in container.get("volumeMounts", []):
            path = mount["mountPath"]
            content = {name.name: text for name, text in files.items() if str(name.parent) == path}
            if not content:
                options.append(f"--tmpfs={path}:uid={user},gid={user},mode=0770")
                continue
            folder = self.folder / workload.object["metadata"]["name"] / path.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in content.items():
                (folder / name).write_text(text)
            options.append(f"--volume={folder}:{path}:ro")
        return options


@asynccontextmanager
async def pods_of(rendering: Rendering, *, network: str) -> AsyncIterator[Pods]:
    """On a network of their own; all that were started are removed at the end."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(passable_folder(prefix="holdfast-pods-"))
        await docker("network", "create", network)
        stack.push_async_callback(docker, "network", "rm", network)
        stack.push_async_callback(_remove_all, network)
        yield Pods(rendering, network, folder)


async def _remove_all(network: str) -> None:
    found = (await docker("ps", "--all", "--quiet", f"--filter=network={network}")).split()
    await asyncio.gather(*(docker("rm", "--force", "--volumes", each) for each in found))
