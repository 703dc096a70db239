"""Names of classes: looked up without importing what is not asked for, and found outside the package."""

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import PACKAGES, Registry, registry

NAMES = {
    "builder": "cc_sbu",
    "task": "image_text_pretrain",
    "processor": "blip2_image_train",
    "model": "minigpt4",
    "encoder": "eva_clip_g",
    "backbone": "chatml",
    "runner": "runner_base",
    "lr_scheduler": "linear_warmup_cosine_lr",
}
DECLARED = [(kind, name) for kind in PACKAGES for name in getattr(registry, f"list_{kind}s")()]


def python(code: str, *folders: Path) -> str:
    """What a fresh interpreter prints, with some folders to import from."""
    path = "".join(f"sys.path.insert(0, {str(folder)!r})\n" for folder in folders)
    code = f"import sys\n{path}{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("kind", "name"), NAMES.items())
def test_get_answers_an_unknown_name_with_the_nearest(kind, name) -> None:
    misspelled = name[:-2] + name[-1]
    with pytest.raises(ConfigError) as error:
        getattr(registry, f"get_{kind}_class")(misspelled)
    known = ", ".join(getattr(registry, f"list_{kind}s")())
    assert name in known
    assert str(error.value) == f"no {kind} is called {misspelled!r}; did you mean {name!r}? (known: {known})"


@pytest.mark.parametrize("kind", PACKAGES)
def test_register_gives_a_name_once(kind) -> None:
    ours = Registry()
    register = getattr(ours, f"register_{kind}")

    class First: ...

    class Second: ...

    assert register("thing")(First) is First
    assert register("thing")(First) is First  # a module imported twice is not a second thing
    with pytest.raises(KeyError, match=rf"{kind} 'thing' is already registered for .*First"):
        register("thing")(Second)
    assert getattr(ours, f"get_{kind}_class")("thing") is First
    with pytest.raises(ConfigError, match=f"no {kind} is called 'thing'"):
        getattr(registry, f"get_{kind}_class")("thing")


@pytest.mark.integration
def test_register_refuses_the_name_of_a_class_that_was_not_imported_yet() -> None:
    code = """
    from minigpt4.common.registry import registry
    try:
        @registry.register_model("minigpt4")
        class Mine: ...
    except KeyError as error:
        print(error.args[0], "torch" in sys.modules)
    """
    assert (
        python(code) == "model 'minigpt4' is already registered for minigpt4.models.minigpt4:MiniGPT4 False"
    )


@pytest.mark.parametrize(("kind", "name"), DECLARED)
def test_declare_agrees_with_the_class(kind, name) -> None:
    cls = getattr(registry, f"get_{kind}_class")(name)
    assert registry.tables[kind].classes[name] is cls
    assert registry.tables[kind].places[name] == f"{cls.__module__}:{cls.__qualname__}"
    assert registry.schema(kind, name) is getattr(cls, "SETTINGS", None)


@pytest.mark.integration
def test_names_are_known_without_importing_a_class() -> None:
    code = f"""
    from minigpt4.common.registry import registry
    print([getattr(registry, f"list_{{kind}}s")()[0] for kind in {list(NAMES)}])
    print([name for name in ("torch", "transformers", "timm", "numpy") if name in sys.modules])
    """
    assert python(code).splitlines()[1] == "[]"


@pytest.mark.integration
def test_get_imports_no_more_than_it_needs() -> None:
    code = """
    from minigpt4.common.registry import registry
    print(registry.get_lr_scheduler_class("linear_warmup_step_lr").__name__, "transformers" in sys.modules)
    """
    assert python(code) == "LinearWarmupStepLRScheduler False"


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("datasets.builders", "CCSBUBuilder"),
        ("datasets.builders", "LaionBuilder"),
        ("models", "MiniGPT4"),
        ("processors", "BlipCaptionProcessor"),
        ("runners", "RunnerBase"),
        ("tasks", "BaseTask"),
        ("tasks", "setup_task"),
    ],
)
def test_packages_still_offer_the_originals_names(package: str, name: str) -> None:
    module = importlib.import_module(f"minigpt4.{package}")
    assert getattr(module, name).__name__ == name
    assert not hasattr(module, name[:-2] + name[-1])


SCHEDULE = """
from minigpt4.common.registry import registry

@registry.register_lr_scheduler("flat")
class Flat: ...
"""


def test_get_takes_an_import_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").touch()
    (tmp_path / "outside" / "flat.py").write_text("class Flat:\n    def step(self): ...\n\nflat = 1\n")
    (tmp_path / "outside" / "broken.py").write_text("import minigpt5\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = registry.get_lr_scheduler_class("outside.flat:Flat")
    assert (found.__module__, found.__name__) == ("outside.flat", "Flat")
    assert "outside.flat:Flat" not in registry.list_lr_schedulers()
    for path, facts in {
        "outside.flat:Flatt": ("outside.flat", "'Flatt'", "'Flat'"),
        "outside.flat:flat": ("no class 'flat'",),
        "outside.falt:Flat": ("no module 'outside.falt'", "PYTHONPATH"),
        "outsidee:Flat": ("no module 'outsidee'",),
        ".flat:Flat": ("no lr_scheduler is called '.flat:Flat'",),
        "outside.flat.Flat": ("no lr_scheduler is called 'outside.flat.Flat'",),
    }.items():
        with pytest.raises(ConfigError) as error:
            registry.get_lr_scheduler_class(path)
        assert all(fact in str(error.value) for fact in facts)
    with pytest.raises(ConfigError, match=r"outside\.broken:Flat.*minigpt5"):
        registry.get_lr_scheduler_class("outside.broken:Flat")


def plug_in(folder: Path, module: str) -> Path:
    """A folder with a module as pip would install it: with its entry point."""
    (folder / "plug.py").write_text(module)
    info = folder / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[minigpt4.plugins]\nplug = plug\n")
    return folder


@pytest.mark.integration
def test_get_finds_what_an_entry_point_registers(tmp_path) -> None:
    code = """
    from minigpt4.common.registry import registry
    registry.get_lr_scheduler_class("linear_warmup_cosine_lr")
    print("plug" in sys.modules, registry.get_lr_scheduler_class("flat").__module__)
    print(registry.list_lr_schedulers())
    """
    out = python(code, plug_in(tmp_path, SCHEDULE)).splitlines()
    assert out[0] == "False plug"  # no plug-in is imported for what the project has
    assert out[1] == "['flat', 'linear_warmup_cosine_lr', 'linear_warmup_step_lr']"


@pytest.mark.integration
def test_get_names_the_plug_in_that_cannot_be_imported(tmp_path) -> None:
    code = """
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.registry import registry
    try:
        registry.get_lr_scheduler_class("flat")
    except ConfigError as error:
        print(error)
    """
    out = python(code, plug_in(tmp_path, "import minigpt5"))
    assert "plug" in out and "No module named 'minigpt5'" in out
