"""Front end + bundle -> the files of a web site that needs no server of ours.

`make app` builds `static/` from the checkout's `app/`; a wheel has it inside. What changes with
every build lies in folders named after their content, so a web host may let browsers keep them.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dermdistill.bundle import Bundle
from dermdistill.bundle.manifest import CARD, MANIFEST
from dermdistill.errors import ConfigError, ToolchainError, unknown_name
from dermdistill.run import atomic_write

STATIC = Path(__file__).parent / "static"
PAGE, WORKER, ASSETS = "index.html", "sw.js", "assets/"
# LiteRT.js first, as it is the faster; int8 first, as it is the smaller download.
BROWSER_MODELS = ("litert-int8", "litert", "onnx")
# Nothing from elsewhere, nothing to elsewhere; WebAssembly is compiled, and no text becomes code.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
DIGITS = 12  # of a digest in a folder's name
# Kept on the device at once; runtime and model follow when the page knows which ones it uses.
SHELL = ("app.js", "worker.js", "style.css")


def build_site(bundle: Bundle, models: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file of the site by its path.

    Args:
        bundle: a verified bundle.
        models: its formats that browsers shall try, in this order; by default one for LiteRT.js
            and one for onnxruntime-web, as far as the bundle holds them.

    Raises:
        ConfigError: a format is not in the bundle or does not run in browsers.
        ToolchainError: the front end was not built.
    """
    chosen = browser_models(bundle, models)
    front = _front_end()
    assets = f"{ASSETS}{_digest({name: front[name] for name in front if name.startswith(ASSETS)})}/"
    folder = f"bundle/{bundle.digest[:DIGITS]}/"
    files = {
        (assets + name.removeprefix(ASSETS) if name.startswith(ASSETS) else name): content
        for name, content in front.items()
    }
    files[folder + MANIFEST] = bundle.manifest.to_json()
    names = [CARD, *(name for model in chosen for name in bundle.manifest.models[model].files)]
    files |= {folder + name: bundle.read(name) for name in names}
    files[PAGE] = _fill(files[PAGE], policy=POLICY, bundle=folder, assets=assets,
                        models=" ".join(chosen),
                        early=folder + bundle.manifest.models[chosen[0]].files[0])  # fmt: skip
    kept = ["./", *(name for name in files if "/" not in name and name not in (PAGE, WORKER)),
            *(assets + name for name in SHELL), folder + MANIFEST, folder + CARD]  # fmt: skip
    files[WORKER] = _fill(files[WORKER], version=_digest(files), files=" ".join(kept))
    return files


def browser_models(bundle: Bundle, wanted: Sequence[str] = ()) -> list[str]:
    """Which of a bundle's formats a browser shall try, in order. As `build_site`."""
    for name in wanted:
        if name not in BROWSER_MODELS:
            raise unknown_name("format for browsers", name, BROWSER_MODELS)
        if name not in bundle.manifest.models:
            raise unknown_name("model in this bundle", name, bundle.manifest.models)
    if wanted:
        return list(wanted)
    held = [name for name in BROWSER_MODELS if name in bundle.manifest.models]
    if not held:
        raise ConfigError(
            f"the bundle holds {', '.join(bundle.manifest.models)}, and none of them runs in a "
            f"browser; export the run to {', '.join(BROWSER_MODELS)}"
        )
    engines = [bundle.manifest.models[name].engine for name in held]
    return [name for place, name in enumerate(held) if engines.index(engines[place]) == place]


def write_site(folder: str | os.PathLike, files: Mapping[str, bytes]) -> None:
    """Write a site into a folder; the page last, so that it never names what is not there.

    Raises:
        ConfigError: the folder holds something that is no such site.
    """
    folder = Path(folder)
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / WORKER).exists())
    ):
        raise ConfigError(f"{folder} is not empty and holds no earlier app; choose another folder")
    for name in sorted(files, key=lambda name: (name in (WORKER, PAGE), name == PAGE)):
        with atomic_write(folder / name) as path:
            path.write_bytes(files[name])
    _remove_others(folder, files)


def _remove_others(folder: Path, files: Mapping[str, bytes]) -> None:
    """What an earlier app left in the folders that are ours."""
    for top in ("assets", "bundle"):
        for path in sorted((folder / top).rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(folder).as_posix() not in files:
                path.unlink()


def _front_end() -> dict[str, bytes]:
    if not (STATIC / PAGE).exists():
        raise ToolchainError(
            "the app's front end is not built in this checkout: `make app` builds it (needs Node "
            "20 or later); `pip install 'dermdistill[app]'` brings it ready"
        )
    return {
        path.relative_to(STATIC).as_posix(): path.read_bytes()
        for path in sorted(STATIC.rglob("*"))
        if path.is_file()
    }


def _digest(files: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return found.hexdigest()[:DIGITS]


def _fill(template: bytes, **gaps: str) -> bytes:
    text = template.decode()
    for name, value in gaps.items():
        text = text.replace("{{" + name + "}}", value)
    return text.encode()
