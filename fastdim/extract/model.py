"""Opening a model: a hub name, a local folder, a GGUF file, or a model inside a Python package."""

from __future__ import annotations

import importlib
import importlib.util
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastdim.errors import InputError, ModelError, require
from fastdim.extract.facts import model_dtype

PACKAGE = "package:"
DTYPES = ("float32", "float16", "bfloat16", "float64")
WEIGHTS = ("config.json", "*.gguf")
HUB_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to run, without its output head where transformers has it apart.

    name: as it was asked for; source: the folder, or the hub name; dtype: of its floating-point
    parameters, as text; commit: of a hub model, which a branch's name does not tell.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    dtype: str
    source: str
    commit: str | None = None


def check_pair(model: Any, revision: str | None, dtype: str | None) -> tuple[Any, Any]:
    """Module and tokenizer of a model in memory.

    Raises InputError unless it is a pair, and for what belongs to a model that is loaded.
    """
    if not (isinstance(model, tuple) and len(model) == 2):
        raise InputError("model must be a name or a pair (torch.nn.Module, tokenizer)")
    if revision is not None or dtype is not None:
        raise InputError(
            "revision and dtype belong to a model that is loaded by name; this one is in memory"
        )
    if any(type(part).__name__ == "FullyShardedDataParallel" for part in model[0].modules()):
        raise ModelError(
            "the model is wrapped in FullyShardedDataParallel, whose modules have no outputs of "
            "their own: shard it with torch.distributed.fsdp.fully_shard in its place"
        )
    return model


def model_in_memory(module: Any, tokenizer: Any) -> LoadedModel:
    """A module as `load_model` gives one: without its head, called by its class."""
    base = getattr(module, "base_model", module)
    name = type(module).__name__
    return LoadedModel(base, tokenizer, name, None, model_dtype(base), "memory")


def local_path(name: str) -> Path | None:
    """The folder or .gguf file behind a name; None if the name can only be a hub's.

    "package:NAME" is the folder of an installed Python package (found, not imported) or one right
    below it that holds config.json or a .gguf file. Raises ModelError if there is none.
    """
    if not name.startswith(PACKAGE):
        path = Path(name).expanduser()
        if path.exists():
            return path
        if name.startswith((".", "/", "~")) or name.endswith(".gguf"):
            raise ModelError(f"there is no model at {name}: check the path")
        return None
    package = name.removeprefix(PACKAGE)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the Python package {package!r} is not installed, so {name} cannot be opened: install "
            "it, or name a local folder"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    for folder in folders:
        if any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            return folder
    raise ModelError(f"the package {package!r} holds no config.json and no .gguf file in {root}")


def model_packages(model: Any) -> tuple[str, ...]:
    """Packages beside fastdim's own that running a model needs; a pair (module, tokenizer) none.

    Raises ModelError for local files that are not there.
    """
    if not isinstance(model, str):
        return ()
    path = local_path(model)
    packed = path is not None and gguf_file(path) is not None
    return ("torch", "transformers", *(("gguf", "accelerate") if packed else ()))


def load_model(
    name: str,
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a transformers model and its tokenizer, in evaluation mode.

    dtype: "float32", "float16", "bfloat16"; None keeps the one the model was saved in (GGUF
        weights are dequantised to float32).

    Raises ModelError if the model is not there or cannot be opened, saying what was tried;
    DependencyError without torch and transformers; InputError on a bad dtype or device.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    path = local_path(name)
    torch = require("torch", "models")
    transformers = require("transformers", "models")
    check_device(device)
    check_source(name, revision)
    source, extra = _files(path) if path is not None else (name, {})
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if path is None and not _hub_answers():
        options["local_files_only"] = True
    options |= extra | {"trust_remote_code": trust_remote_code}
    wanted = "auto" if dtype is None else getattr(torch, dtype)
    if extra and dtype is None:
        wanted = torch.float32
    try:
        with _quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model = transformers.AutoModel.from_pretrained(source, dtype=wanted, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise ModelError(
                f"cannot open the model {name}: it needs custom code of its repository, and none "
                "is run unless asked for. Read that code, and if you trust it add "
                "--trust-remote-code (trust_remote_code=True)"
            ) from error
        tried = f"files in {source}" if path is not None else f"no local folder {name}; model hub"
        raise ModelError(
            f"cannot open the model {name} (tried: {tried}): {_first_line(error)}. Give a "
            "local folder, a .gguf file, package:NAME, or a hub name where a hub can be reached"
        ) from error
    check_tokenizer(tokenizer, name)
    model = model.to(device).eval()
    commit = None if path is not None else _commit(name, revision)
    return LoadedModel(model, tokenizer, name, revision, model_dtype(model), source, commit)


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model that was just loaded, from the place of its files in the cache."""
    hub = require("huggingface_hub", "models")
    config = hub.try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(config).parent.name if isinstance(config, str) else None


def check_device(device: str) -> None:
    """Raise InputError, before anything is loaded, if torch cannot put a tensor on `device`."""
    torch = require("torch", "models")
    if device.partition(":")[0] == "meta":
        raise InputError("the device 'meta' holds no values: leave --device out for the CPU")
    # torch has no one error for this: a name it does not know, a build without CUDA (an assertion),
    # and a device without its driver or backend each raise another.
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"torch cannot use the device {device!r}: {_first_line(error)}. Leave --device out for "
            "the CPU; `fastdim doctor` says what is here"
        ) from error


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """Raise ModelError for a tokenizer without a vocabulary.

    transformers makes one where a folder has no tokenizer files; it reads every word as unknown.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"the tokenizer of {name} knows {len(tokenizer)} tokens, all of them special: its "
            "files (tokenizer.json, vocab.txt or the like) are missing; copy them beside the model"
        )


def check_source(name: str, revision: str | None) -> None:
    """Raise, before anything is loaded, if a model cannot be had under this name and revision.

    ModelError: no local files and neither a hub that answers nor a cached copy. InputError: a
    revision of something that has none. A name that only the hub can refuse passes.
    """
    if local_path(name) is not None:
        if revision:
            raise InputError(
                f"revision {revision!r} belongs to a hub name, and {name} is local files: leave "
                "the revision out, or name the folder that holds it"
            )
        return
    require("transformers", "models")
    hub = require("huggingface_hub", "models")
    if not _hub_answers() and not isinstance(
        hub.try_to_load_from_cache(name, "config.json", revision=revision), str
    ):
        raise ModelError(
            f"there is no model {name}: no local file or folder of this name, no copy of it in the "
            f"hub's cache, and the model hub does not answer within {HUB_SECONDS:g} s. Give a "
            "local folder, a .gguf file, package:NAME, or a hub name where a hub can be reached"
        )


def _hub_answers() -> bool:
    """Whether the hub's host takes a connection; its own client retries for a minute.

    Behind a proxy only the proxy can tell, so the client is left to ask it.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if address.scheme in urllib.request.getproxies():
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=HUB_SECONDS).close()
    except OSError:
        return False
    return True


def _first_line(error: Exception) -> str:
    """The first sentence of another library's error; a list that it announces belongs to it."""
    first = next(iter(str(error).splitlines()), type(error).__name__).strip()
    return (" ".join(str(error).split()) if first.endswith(":") else first).rstrip(".")


def _files(path: Path) -> tuple[str, dict[str, str]]:
    """Folder and, for GGUF, the name of the file, as from_pretrained takes them."""
    file = gguf_file(path)
    return (str(path), {}) if file is None else (str(file.parent), {"gguf_file": file.name})


def gguf_file(path: Path) -> Path | None:
    """The .gguf file a model is read from, None where config.json says what to read.

    Raises ModelError for a folder that holds no model, or several.
    """
    if path.is_file():
        return path
    if (path / "config.json").is_file():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{path} holds {len(found)} .gguf files: name one of them")
    raise ModelError(f"{path} holds neither config.json nor a .gguf file: not a model")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' own progress bars: fastdim shows one of its own."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    # The reader of GGUF files takes tqdm's bar directly, which listens to no setting and writes
    # also where standard error is no terminal.
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar
        if shown:
            logging.enable_progress_bar()
