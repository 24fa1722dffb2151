"""Compose the settings of a tool from its dataclass, configs/ and the command line.

The only module of the package that knows Hydra. The dataclasses are in ``detect.settings`` and
``detect.score_settings``, for scoring has no use for what the others import.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from detect.files import write_atomically

MISSING = "???"  # what OmegaConf takes for a value that has to be given
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = {path.name for path in CONFIGS.iterdir() if path.is_dir()}  # data=voc chooses a file


class ConfigError(ValueError):
    """Settings that cannot be used, in one line."""


def load_config(name: str, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Compose the settings of a tool that is no Hydra application of its own.

    Args:
        name: Of the file in configs/, such as ``detect``.
        overrides: ``key=value``. Values that are plain text, such as paths, need no quotes.

    Returns:
        The tool's root dataclass, and the same as plain dicts and lists.

    Raises:
        ConfigError: If an override is malformed, has an unknown key or a wrong value; names the
            keys that look alike.
    """
    try:
        return _compose(name, overrides)
    except _ERRORS as error:
        raise ConfigError(_explain(name, overrides, error)) from error


_ERRORS = (HydraException, OmegaConfBaseException, ValueError)


def _compose(name: str, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(name)
        plain = OmegaConf.to_container(config, resolve=False)
        assert isinstance(plain, dict)
        # A path may hold what Hydra's grammar has another use for, so it does not go through it.
        texts = {k for k, v in plain.items() if v is None or isinstance(v, str)} - GROUPS
        lists = {k for k, v in plain.items() if isinstance(v, list)}
        parts = [override.partition("=") for override in overrides]
        given = [
            f"{key}=[{value}]" if key in lists and value[:1] != "[" else f"{key}{sign}{value}"
            for key, sign, value in parts
            if key not in texts
        ]
        config = compose(name, overrides=given)
    for key, _, value in parts:
        if key in texts:
            config[key] = None if value == "null" else value
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return OmegaConf.to_object(config), {str(key): value for key, value in plain.items()}


def build(name: str, chosen: Any) -> Any:
    """Make what a chosen file of a group describes, such as a proposer.

    Raises:
        ConfigError: If the class or function that it names refuses the settings.
    """
    try:
        return instantiate(chosen, _convert_="all")
    except InstantiationException as error:
        raise ConfigError(f"{name}: {error.__cause__ or error}") from error


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write nested settings as YAML, atomically."""
    write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(values)))


def check_keys(name: str, overrides: Sequence[str]) -> None:
    """Refuse overrides of settings that do not exist, naming those that look alike.

    Args:
        name: Of the file in configs/.
        overrides: ``key=value``; those of Hydra itself, and ``+key`` and ``~key``, pass.

    Raises:
        ConfigError: If a key is unknown, or a chosen file is not there.
    """
    for override in _choices(overrides):
        group, _, choice = override.partition("=")
        there = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        if choice not in there and choice != "null":
            raise ConfigError(f"{override}: there is no such choice; choose {', '.join(there)}")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:  # what else there is to set depends on what is chosen
            known = list(_keys(OmegaConf.to_container(compose(name, _choices(overrides)))))
        except HydraException:  # a wrong choice, which composing explains
            return
    for override in overrides:
        key = override.partition("=")[0]
        if key in known or key in GROUPS or key.startswith(("+", "~", "hydra.", "hydra/")):
            continue
        # Without its group first: `nms_threshold` for `merge.nms_threshold`.
        near = [k for k in known if k.endswith(f".{key}")] or get_close_matches(key, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see --help"
        raise ConfigError(f"{override}: no setting {key!r}{hint}")


def _explain(name: str, overrides: Sequence[str], error: Exception) -> str:
    """Find the override that is at fault, and say why in one line."""
    choices = _choices(overrides)
    for override in [*choices, *(o for o in overrides if o not in choices)]:
        tried = [override] if override in choices else [*choices, override]
        try:
            check_keys(name, tried)
            _compose(name, tried)
        except ConfigError as cause:
            return str(cause)
        except MissingMandatoryValue:  # another override may give it
            continue
        except _ERRORS as cause:
            text = str(cause.__cause__ or cause).split("full_key")[0].split("See https:")[0]
            return f"{override}: {' '.join(text.split())}"
    if isinstance(error, MissingMandatoryValue):
        return f"set {error.full_key}=...; --help explains"
    return " ".join(str(error).split())


def _choices(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that choose a file of a group, such as ``data=voc``."""
    return [override for override in overrides if override.partition("=")[0] in GROUPS]


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate a command line's paths from its overrides.

    What looks like ``key=value`` is an override, unless a file of that very name exists. Paths
    never pass through Hydra, whose grammar has no room for spaces, commas and brackets.
    """
    overrides = [
        argument
        for argument in arguments
        if re.match(r"[+~]{0,2}[A-Za-z_][\w.]*=", argument) and not Path(argument).exists()
    ]
    return [a for a in arguments if a not in overrides], overrides


def settings_help(settings: type, *, by_hydra: bool = False) -> dict[str, str]:
    """Return what --help prints, in Hydra's form: every setting with its default and comment.

    Args:
        settings: Root dataclass of a tool.
        by_hydra: Whether Hydra itself parses the command line, texts included.
    """
    rows = _describe(settings)
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:{width}}  {text}" for name, text in rows]
    what = str(settings.__doc__).splitlines()[0]
    head = f"{what}\n\nname=value, in any order; those with ... are chosen or required:\n"
    foot = "\nA value with = , or brackets needs quotes: 'name=\"a,b\"'\n" if by_hydra else ""
    return {"template": "\n".join([head, *lines, foot])}


def _describe(settings: type, prefix: str = "", made: Any = None) -> list[tuple[str, str]]:
    """List the settings of a dataclass and of those inside it: ``name=default`` and comment.

    The comments stand in the source of the dataclass, their only home, and are read from there.
    """
    source = inspect.getsource(settings)
    found = re.findall(r"^    (\w+): .+?(?: = (.+?))?  # (.+)$", source, re.M)
    written = {name: (default, comment) for name, default, comment in found}
    shown = {"MISSING": "...", "None": "null"}
    plain = settings()
    made = plain if made is None else made
    rows = []
    for name, kind in get_type_hints(settings).items():
        value = getattr(made, name)
        if is_dataclass(kind):
            assert isinstance(kind, type)
            rows += _describe(kind, f"{prefix}{name}.", value)
        else:
            default, comment = written[name]
            if default.startswith("field(") or value != getattr(plain, name):
                default = str(value).replace(" ", "")
            rows.append((f"{prefix}{name}={shown.get(default, default)}", comment))
    return rows


def register(name: str, settings: type) -> None:
    """Make a tool's schema and help known to Hydra, under the names that configs/*.yaml list first.

    Args:
        name: Of the file in configs/.
        settings: Its root dataclass.
    """
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=settings)
    store.store(
        group="hydra/help", name=f"{name}_help", node=settings_help(settings, by_hydra=True)
    )
