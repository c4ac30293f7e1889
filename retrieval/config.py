"""From YAML to objects: the one caller of Hydra. Unknown keys are refused and the known ones named.

Hydra is imported where it is called: that takes a quarter of a second, and who loads a model needs none of it.
"""

import difflib
import functools
import inspect
import os
import pkgutil
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from retrieval import endings, stages, timm_names
from retrieval.errors import InputError, near
from retrieval.overrides import literal, quoted, refuse_misread, typed
from retrieval.terminal import printable, printable_lines, say, take_any_text

PACKAGE = Path(__file__).resolve().parent
CONFIGS = PACKAGE / "configs"  # of a wheel; a checkout has them beside the package
CONFIGS = CONFIGS if CONFIGS.is_dir() else PACKAGE.parent / "configs"
ALLOWED = ("retrieval.", "torch.nn.", "torch.optim.", "lightning.pytorch.", "pytorch_metric_learning.")
FREE_FORM = ("backbone.kwargs.", "backbone.kwargs=")  # handed to timm as they are, so no schema can name them


def cache_folder() -> str:
    """Where a cache is kept unless a config says: RETRIEVAL_CACHE, or below the person's home, known by HOME or not."""
    if given := os.environ.get("RETRIEVAL_CACHE"):
        return given
    try:
        return str(Path.home() / ".cache" / "retrieval")
    except RuntimeError as error:  # neither HOME nor the system's list of users knows
        raise InputError("no home folder is known to keep a cache in: set RETRIEVAL_CACHE=DIR, or cache=DIR") from error


def moment() -> str:
    """The time to the second and eight random digits: a name that two calls at once do not share."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(4)}"


OmegaConf.register_new_resolver("cache_folder", cache_folder, replace=True)
OmegaConf.register_new_resolver("moment", moment, use_cache=True, replace=True)  # once for all the jobs of a sweep


def load_yaml(path: str | Path) -> DictConfig:
    """The YAML file as a config; a file that is absent or no mapping is refused."""
    if not Path(path).is_file():
        raise InputError(f"no config file at {path}")
    cfg = OmegaConf.load(path)
    if not isinstance(cfg, DictConfig):
        raise InputError(f"{path} must hold a mapping of keys, it holds a {type(cfg).__name__}")
    return cfg


def from_plain(values: Any, struct: bool = False) -> DictConfig:
    """A config of values that are what they say: a path with `${` in it is no interpolation."""

    def escaped(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: escaped(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [escaped(one) for one in value]
        return literal(value) if isinstance(value, str) else value

    return DictConfig(escaped(values), flags={"struct": struct})


def build(cfg: Mapping[str, Any] | DictConfig, **runtime: Any) -> Any:
    """The object that a config describes.

    `_target_` names a class of an allow-listed package, the other keys are its arguments; a key that it does not
    take is refused with the accepted ones. `runtime` offers what only the program knows (`dim=2048`); the class
    gets those that it has arguments for.
    """
    missing = sorted(OmegaConf.missing_keys(cfg)) if isinstance(cfg, DictConfig) else []
    if missing:
        raise InputError(f"{missing[0]} must be given: it has no default")
    whole = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg), flags={"allow_objects": True})
    plain: Any = OmegaConf.to_container(whole, resolve=True)
    target = _target(plain)
    accepted = arguments(target)
    for key in plain:
        if key != "_target_" and key not in accepted:
            raise InputError(f"{plain['_target_']} has no key '{key}': {near(str(key), accepted)}")
    offered = {key: value for key, value in runtime.items() if key in accepted}
    given = {key: value for key, value in plain.items() if key != "_target_"}
    try:
        return target(**{**given, **offered})
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{plain['_target_']} cannot be made of {plain}: {error}") from error


def _target(cfg: dict[Any, Any]) -> type:
    name = str(cfg.get("_target_", ""))
    if not name.startswith(ALLOWED):
        raise InputError(f"_target_ must be a class of {', '.join(ALLOWED)} got {name or 'none'!r}")
    try:
        target = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"_target_ {name} cannot be imported: {error}") from error
    if not isinstance(target, type) or not target.__module__.startswith(tuple(a.rstrip(".") for a in ALLOWED)):
        raise InputError(f"_target_ must be a class of {', '.join(ALLOWED)} got {name}, which is {target}")
    return target


def arguments(target: type) -> set[str]:
    """Names of the arguments that a class takes; `**kwargs` are those of the next class in its line."""
    names: set[str] = set()
    for base in target.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


def compose(name: str, overrides: list[str], output_dir: Path | str | None = None) -> DictConfig:
    """The config that `NAME.py OVERRIDES` would run with (for notebooks and tests)."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    overrides = [*overrides, *([f"output_dir={quoted(literal(str(output_dir)))}"] if output_dir else [])]
    refuse_misread(overrides, repr)
    overrides = prepared(overrides, name)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(name, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra")
    cfg = from_plain(OmegaConf.to_container(cfg, resolve=True), struct=True)
    refuse_unknown(cfg, name)
    return cfg


def refuse_unknown(cfg: DictConfig, name: str) -> None:
    """Refuse keys that nothing reads: an experiment's YAML and `+key=value` may add any. Components check their own."""
    schema = load_yaml(CONFIGS / f"{name}.yaml")
    groups = {str(group) for entry in schema.defaults if isinstance(entry, DictConfig) for group in entry}
    known = {"": {*map(str, schema), *groups} - {"defaults", "hydra", "experiment"}}
    known |= {str(key): set(map(str, value)) for key, value in schema.items() if isinstance(value, DictConfig)}
    for group in groups & known.keys():  # several may be chosen, each under its own name
        known[group] |= {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    for place, accepted in known.items():
        if place in cfg and not isinstance(cfg[place], DictConfig):
            raise InputError(f"'{place}' must hold keys ({', '.join(sorted(accepted))}), got {cfg[place]}")
        for key in cfg if not place else cfg.get(place, ()):
            if key not in accepted:
                where = f"under '{place}'" if place else "at the top level"
                raise InputError(f"unknown config key '{key}' {where}: {near(str(key), accepted)}")


def chosen(group: Any) -> dict[str, DictConfig]:
    """The components that were chosen of a group that takes several, by name."""
    return {str(name): one for name, one in (group or {}).items() if isinstance(one, DictConfig)}


def overridden() -> set[str]:
    """The first words of what the command line set: `pooling.p=4` gives `pooling`."""
    from hydra.core.hydra_config import HydraConfig

    return {text.lstrip("+~").split("=")[0].split(".")[0].split("@")[0] for text in HydraConfig.get().overrides.task}


def prepared(words: list[str], script: str) -> list[str]:
    """Command-line words with recipes looked for among those of the script, free-form keys marked as additions, and
    Hydra's own folder put where output_dir is. Flags come last, as Hydra takes no overrides on both sides of one.
    """
    words = [f"++{word}" if word.startswith(FREE_FORM) else of_script(word, script) for word in words]
    given = [word.split("=", 1)[1] for word in words if word.lstrip("+").startswith("output_dir=")]
    if "" in given:
        raise InputError("output_dir must name a folder, got nothing after output_dir=")
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    overrides += [f"hydra.run.dir={one}" for one in given[-1:]]
    return [*overrides, *(word for word in words if "=" not in word or word.startswith("-"))]


def refuse_shared(words: Iterable[str]) -> None:
    """Refuse one output_dir among the words of a sweep."""
    if any(word.lstrip("+").startswith("output_dir=") for word in words):
        raise InputError(
            "the jobs of a sweep cannot share one output_dir: give hydra.sweep.dir=DIR, each has a folder there"
        )


def of_script(word: str, script: str) -> str:
    """`experiment=demo` as `experiment=train/demo`: each script has recipes of its own, some by the same names."""
    if not word.startswith("experiment="):
        return word
    name = rf"(?<![\w./-])(?!null\b|{script}/)(?=[\w./-])"
    return "experiment=" + re.sub(name, f"{script}/", word.removeprefix("experiment="))


def main(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorates a script's task: composes `configs/NAME.yaml` with the command line, prints wrong input plainly, and
    leaves no new folder behind where that is refused."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        begun: list[str] = []  # folders of the runs

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            begun.append(run_folder())
            try:
                refuse_unknown(cfg, name)
                for key in ("cache", "extract.store"):
                    if folder := OmegaConf.select(cfg, key):
                        endings.refuse_no_folder(folder, key)
                return task(cfg)
            except (InputError, OmegaConfBaseException) as error:
                if in_sweep():
                    raise
                end_refused(error)  # here, as Hydra would print all words of the command line before it

        def run() -> None:
            if {"--help", "-h"} & set(sys.argv[1:]):
                return explain_keys(name)
            import hydra
            from hydra.errors import HydraException

            os.environ["HYDRA_FULL_ERROR"] = "1"
            warnings.showwarning = endings.show_warning
            take_any_text()
            with endings.without_traceback(lambda: going_on(name, begun)):
                try:
                    refuse_misread(sys.argv[1:])
                    sys.argv[1:] = prepared(sys.argv[1:], name)
                    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(job)()
                except (InputError, HydraException, OmegaConfBaseException) as error:
                    end_refused(error)
                except (OSError, ValueError) as error:
                    if begun:
                        raise
                    sys.exit(f"error: {printable(refusal(error))}")  # of Hydra: before the script had its turn

        return run

    return decorate


def explain_keys(name: str) -> None:
    """Print the help of a script, by its YAML files alone: Hydra's takes long and leaves their comments out."""
    from retrieval import explained

    try:
        say(explained.page(CONFIGS, name, sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {printable(error)}")


def begin(line: str, cfg: DictConfig) -> None:
    """Say the first line of a script's call and, from now on, its stages; the jobs of a sweep leave that to it."""
    if in_sweep():
        return stages.end()
    asks = bool(cfg.get("dry_run"))  # its table is all that goes to stdout
    return stages.begin(f"dry run: {line}" if asks else line, sys.stderr if asks else sys.stdout)


def in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def end_refused(error: Exception) -> NoReturn:
    """End by the error in words, and leave no new folder behind."""
    endings.leave_nothing()
    sys.exit(f"error: {explain(error)}")


def refusal(error: OSError | ValueError) -> str:
    """What Hydra has met before a script begins, in words: mostly a folder that it cannot make."""
    if isinstance(error, OSError) and error.filename:
        return endings.unwritable(str(error.filename), error)
    return str(error)


def run_folder() -> str:
    """The folder that Hydra has made for the run; it forgets it when the run ends."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.output_dir)


def going_on(name: str, begun: Sequence[str]) -> str:
    """How to go on with a call of a script that was interrupted; begun: the folders of its runs."""
    from hydra.core.hydra_config import HydraConfig

    cfg: Any = HydraConfig.instance().cfg
    if cfg is None:
        return "nothing was begun"
    if in_sweep():
        folder = typed("hydra.sweep.dir", str(cfg.hydra.sweep.dir))
        return f"the same command with {folder} runs the jobs that are not done"
    if not begun:
        return "nothing was begun"
    if name == "train":
        folder = typed("output_dir", begun[-1])
        return f"the same command with {folder} resume=auto goes on from the last checkpoint"
    return {
        "eval": "the same command goes on, from the descriptors that are kept",
        "export": "the same command makes the files again",
    }[name]


def of_timm(name: str) -> str:
    """What to type for a backbone that has no file of its own, where timm has it or one of a like name."""
    known = timm_names.names()
    if name.partition(".")[0] in known:  # what follows a point names its weights
        return f"it is a model of timm, type backbone=timm backbone.name={name}; "
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.8)
    return "".join(f"did you mean backbone=timm backbone.name={one}? " for one in matches[:1])


def explain(error: Exception) -> str:
    """The error in words that are harmless on a terminal: a misspelt key or choice with near matches and what is
    accepted."""
    return printable_lines(_explained(error))


def _explained(error: Exception) -> str:
    from hydra.errors import MissingConfigException

    if str(error).startswith("Caught "):  # in a worker process: after its traceback
        return re.split(r"\nretrieval\.[\w.]+: ", str(error).strip())[-1]
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    raised: BaseException | None = error
    while isinstance(raised, OmegaConfBaseException):  # what one of our resolvers raised lies below it
        raised = raised.__cause__ or raised.__context__
    if isinstance(raised, InputError):
        return str(raised)
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and isinstance(cause.parent_node, DictConfig):
        where = str(cause.full_key or cause.key).rsplit(".", 1)[0]
        place = f"under '{where}'" if "." in str(cause.full_key) else "at the top level"
        return f"unknown config key '{cause.key}' {place}: {near(str(cause.key), cause.parent_node)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = Path(error.missing_cfg_file)
        group = next(folder for folder in missing.parents if (CONFIGS / folder).is_dir())
        choice, choices = (
            missing.relative_to(group).as_posix(),
            [path.stem for path in (CONFIGS / group).glob("*.yaml")],
        )
        known = of_timm(choice) if group.name == "backbone" else ""
        return f"unknown {group if group.name else 'config'} '{choice}': {known}{near(choice, choices)}"
    return str(error)
