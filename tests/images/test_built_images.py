"""The images as they come out: small, locked down, quick to start and quick to build again."""

import io
import shutil
import statistics
import tarfile
import time
from pathlib import Path

import pytest
from conftest import Site
from engine import HARDENED, ROOT, Container, Image, container, docker
from holdfast_local.ports import free_port
from holdfast_local.secrets import SERVICES
from waiting import eventually

LIMIT_BYTES = 120_000_000
STARTS = 5
PROGRAMS = ("payment-provider", "mailbox", "customer-endpoint", "customer", "oracle", "holdfast", "locust")

each_image = pytest.mark.parametrize("what", [*SERVICES, "tools"])
each_service = pytest.mark.parametrize("service", SERVICES)

type Images = dict[str, Image]

FIND_UNCOMPILED = """
import importlib.util, pathlib, sys
names = [name for name in sys.argv[1:] if __import__(name)]
loaded = [module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
own = [str(path) for path in pathlib.Path(sys.prefix, "lib").rglob("*.py")]
sources = {path for path in [*loaded, *own] if path.endswith(".py")}
print(*[path for path in sources if not pathlib.Path(importlib.util.cache_from_source(path)).exists()])
"""


@each_image
async def test_image_is_small(images: Images, figures: list[str], what: str) -> None:
    size = await images[what].bytes_beyond_base()
    figures.append(f"{what}: {size / 1e6:.0f} MB beyond the base image")
    assert size < LIMIT_BYTES


@each_image
async def test_image_runs_as_an_account_that_can_write_nowhere(images: Images, what: str) -> None:
    assert (await images[what].inspect())["Config"]["User"] == "10001:10001"
    # Not on a read-only root, where nothing can be written to anyway.
    find = "id -u; id -g; find /app /usr ! -type l -writable 2>/dev/null || true"
    found = await images[what].run("sh", "-c", find, hardened=())
    assert found.split() == ["10001", "10001"]


@each_image
async def test_image_has_nothing_that_installs_or_compiles(images: Images, what: str) -> None:
    find = "for name in uv gcc cc ld strip make git; do command -v $name || true; done; find /app -type d -name tests"
    assert await images[what].run("sh", "-c", find) == ""
    modules = (
        "import importlib.util as u; print([m for m in ('pip', 'ensurepip', 'uv', 'setuptools') if u.find_spec(m)])"
    )
    assert await images[what].run("python", "-c", modules) == "[]"


@each_image
async def test_image_has_byte_code_of_everything_that_it_loads(images: Images, what: str) -> None:
    """A read-only root could not keep any: each start would compile again."""
    package = what.replace("-", "_")
    modules = ["simulators", "oracle.cli"] if what == "tools" else [f"{package}.api", f"{package}.worker"]
    assert await images[what].run("python", "-c", FIND_UNCOMPILED, *modules) == ""


@each_image
async def test_image_says_what_it_is(images: Images, what: str) -> None:
    found = (await images[what].inspect())["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in found["Labels"].items()}
    assert what in labels["title"]
    assert labels["description"]
    assert (labels["licenses"], labels["version"], labels["revision"]) == ("Apache-2.0", "1.2.3", "abc")


@each_service
async def test_entry_point_is_the_command_of_the_service(images: Images, service: str) -> None:
    found = (await images[service].inspect())["Config"]
    assert (found["Entrypoint"], found["Cmd"]) == (["service"], ["--help"])
    assert await images[service].run("readlink", "/usr/local/bin/service") == f"/app/.venv/bin/{service}"
    assert f"The {service} service." in await docker("run", "--rm", *HARDENED, images[service].name)


async def test_tools_have_every_program_and_the_load_tests(images: Images) -> None:
    assert (await images["tools"].inspect())["Config"]["Entrypoint"] is None
    for program in PROGRAMS:
        assert "usage" in (await images["tools"].run(program, "--help")).lower()
    there = (await images["tools"].run("find", "loadtest", "-type", "f")).split()
    made_here = {"__pycache__", ".venv"}
    sources = [p for p in (ROOT / "loadtest").rglob("*") if p.is_file() and made_here.isdisjoint(p.parts)]
    assert sorted(there) == sorted(str(path.relative_to(ROOT)) for path in sources)


@each_service
@pytest.mark.parametrize("role", ["api", "worker"])
async def test_process_is_ready_on_a_read_only_root_and_ends_with_0(
    images: Images, site: Site, figures: list[str], service: str, role: str
) -> None:
    port = free_port()
    options = site.options(service, secrets=service, management_port=port)
    async with container(*HARDENED, *options, images[service].name, role, management_port=port) as started:
        seconds, used = list[float](), list[float]()
        for _ in range(STARTS):
            seconds.append(await started.start())
            used.append(await started.processor_seconds())
            assert await started.stop() == 0, await started.logs()
    median = statistics.median(seconds)
    processor = f"{statistics.median(used):.2f} s of processor time"
    figures.append(f"{service} {role}: ready {median:.2f} s after the start, {processor} (medians of {STARTS})")


async def test_a_changed_source_is_one_new_layer(images: Images, figures: list[str], tmp_path: Path) -> None:
    context = copy_of_the_context(tmp_path)
    before = (await (await Image.build("orders", context=context)).inspect())["RootFS"]["Layers"]
    with (context / "services" / "orders" / "src" / "orders" / "routes.py").open("a") as source:
        source.write(f"# {time.time()}\n")
    began = time.monotonic()
    rebuilt = await Image.build("orders", context=context)
    seconds = time.monotonic() - began
    figures.append(f"orders: built again in {seconds:.1f} s after a change of a source")
    after = (await rebuilt.inspect())["RootFS"]["Layers"]
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]
    await Image.build("orders")  # the others look at the tree's own


async def test_dev_image_restarts_with_what_is_copied_into_it(site: Site, tmp_path: Path) -> None:
    """The copy is what Skaffold does: `tar` inside of the container, as its account."""
    image = await Image.build("orders", target="dev")
    port = free_port()
    options = site.options("orders", secrets="orders", management_port=port)
    hardened = [option for option in HARDENED if option != "--read-only"]  # its sources are to be replaced
    async with container(*hardened, *options, image.name, "api", management_port=port) as started:
        await started.start()
        assert await started.ask("/livez") == {"status": "alive"}
        await replace_source(started, "services/chassis/src/chassis/process/management_app.py", '"alive"', '"replaced"')

        async def is_replaced() -> bool:
            return await started.ask("/livez") == {"status": "replaced"}

        await eventually(is_replaced)
        assert await started.stop() == 0
    await docker("image", "rm", "--no-prune", image.name)


def copy_of_the_context(folder: Path) -> Path:
    """What images are built from, with the times of its files, since packages of byte code know those."""
    context = folder / "context"
    for part in ("services", "infra", "loadtest"):
        shutil.copytree(ROOT / part, context / part, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    for file in ("pyproject.toml", "uv.lock", ".dockerignore"):
        shutil.copy2(ROOT / file, context / file)
    return context


async def replace_source(started: Container, path: str, old: str, new: str) -> None:
    content = (ROOT / path).read_text().replace(old, new).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode, entry.mtime = len(content), 0o644, int(time.time())
        archive.addfile(entry, io.BytesIO(content))
    await docker("exec", "--interactive", started.id, "tar", "-xmf", "-", "-C", "/app", stdin=packed.getvalue())
