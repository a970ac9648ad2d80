"""Objects as files: which format an artifact gets, and the writing of it.

    serialization_function   what it returns                            custom
    extension ".pkl"         a pickle                                   pickle
    numpy.ndarray            .npz, .csv.gz                              numpy
    pandas.DataFrame         .csv.gz, .parquet, .feather, .pickle       pandas (MultiIndex: a pickle)
    PIL.Image                .png, whatever PIL writes                  image
    dict                     .json, .yaml                               dict
    str                      an existing file, folder or wildcard, a URL, else text: custom, archive, custom, string
    Path, list of paths      file, folder, wildcard; one zip            custom, archive
    anything else            a pickle                                   pickle

An object is written while the caller waits: what happens to it afterwards cannot show, and nothing is held twice. Up
to 1 MiB stays in memory, anything larger goes straight into a file. The user's own files are read later, off the
caller's thread. numpy, pandas and PIL are looked for among the modules that the program has imported, never imported.
"""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.bytes.dataframes import csv_form, table_changes, table_form, write_csv, write_table
from telemetry.sdk.bytes.fidelity import (
    ARRAY_CLASSES,
    array_changes,
    image_changes,
    in_words,
    json_changes,
    yaml_changes,
)
from telemetry.sdk.bytes.packing import is_url, looks_like_path, pack_path, pack_paths
from telemetry.sdk.bytes.parcel import Parcel, Scratch, content_type_of, file_stem, shortened, text_of_object

__all__ = ["StoreOptions", "serialize"]

log = logging.getLogger(__name__)

# Longer texts are not tried as paths.
_MAX_PATH_CHARS = 2048

_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How an object is to be stored.

    Attributes:
        name: the artifact's.
        extension: ".yaml" or "yaml"; None for the type's own.
        scratch: the folder for what is too large for memory.
        auto_pickle: None stands for True.
    """

    name: str
    scratch: Path
    extension: str | None = None
    serialization_function: Callable[[Any], bytes | bytearray] | None = None
    auto_pickle: bool | None = None
    preview: str | None = None
    sort_keys: bool = True

    @property
    def suffix(self) -> str:
        """The extension with its dot, in lower case; "" where none was asked for."""
        text = (self.extension or "").strip().lower()
        return text if not text or text.startswith(".") else f".{text}"

    def filename(self, suffix: str) -> str:
        return file_stem(self.name) + suffix


def serialize(value: Any, options: StoreOptions) -> Parcel:
    """Return an object as a file that can be uploaded.

    Raises:
        ConfigurationError: it cannot be stored; nothing is left behind.
    """
    parcel = _parcel_of(value, options)
    return parcel if options.preview is None else replace(parcel, preview=shortened(str(options.preview)))


def _parcel_of(value: Any, options: StoreOptions) -> Parcel:
    if options.serialization_function is not None:
        return _by_function(value, options, options.serialization_function)
    if options.suffix == ".pkl":
        return _pickled(value, options)
    if _is_a(value, "numpy", "ndarray") and not _is_a(value, "numpy.ma", "MaskedArray"):
        return _array(value, options)
    if _is_a(value, "pandas", "DataFrame"):
        return _frame(value, options)
    if _is_a(value, "PIL.Image", "Image"):
        return _image(value, options)
    if isinstance(value, dict):
        return _dict(value, options)
    if isinstance(value, Path) or (isinstance(value, str) and value.strip()):
        return _path_or_text(value, options)
    if isinstance(value, (list, tuple)):
        packed = pack_paths(options.name, value, options.scratch)
        if packed is not None:
            return packed
    if options.auto_pickle is False:
        raise ConfigurationError(
            f"artifact {options.name!r}: there is no format for {type(value).__name__} but a pickle, and "
            "auto_pickle=False forbids that. Nothing was uploaded. Give a serialization_function, or a dict"
        )
    return _pickled(value, options)


def _is_a(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class in a module that may never have been imported; then nothing is."""
    cls = getattr(sys.modules.get(module), name, None)
    return isinstance(cls, type) and isinstance(value, cls)


def _choose(options: StoreOptions, choices: tuple[str, ...]) -> str:
    """Return the extension asked for, or the first choice, with a warning if another was asked for."""
    if not options.suffix or options.suffix in choices:
        return options.suffix or choices[0]
    log.warning(
        "artifact %r: extension_name=%r is none of %s; it is stored as %s",
        options.name,
        options.extension,
        ", ".join(choices),
        choices[0],
    )
    return choices[0]


def _say_changes(options: StoreOptions, changes: list[str], form: str, *, hint: str = "keeps them") -> None:
    if changes:
        log.warning("artifact %r: %s changes %s; extension_name='.pkl' %s", options.name, form, in_words(changes), hint)


def _write(
    options: StoreOptions,
    kind: str,
    suffix: str,
    write: Callable[[Scratch], object],
    *,
    preview: str = "",
    form: Any = None,
) -> Parcel:
    """Return the parcel of what `write` writes; what that raises goes through, and leaves nothing behind."""
    scratch = Scratch(options.scratch)
    try:
        write(scratch)
        source, is_file = scratch.take()
    except BaseException:
        scratch.discard()
        raise
    filename = options.filename(suffix)
    return Parcel(
        kind=kind,
        filename=filename,
        content_type=content_type_of(filename),
        source=source,
        removes_source=is_file,
        preview=preview,
        form=form,
    )


# ---- pickles, and functions of the user's ----------------------------------------------------------


def _pickled(value: Any, options: StoreOptions) -> Parcel:
    try:
        return _write(
            options,
            "pickle",
            ".pkl",
            lambda file: pickle.dump(value, file, protocol=pickle.HIGHEST_PROTOCOL),
            preview=text_of_object(value),
        )
    except OSError as error:
        if is_interrupt(error):
            raise
        raise _no_room(options, error) from error
    except Exception as error:  # somebody else's __reduce__
        if is_interrupt(error):
            raise
        raise ConfigurationError(
            f"artifact {options.name!r}: {type(value).__name__} cannot be pickled: {error}. Nothing was uploaded. "
            "Give a serialization_function that returns bytes"
        ) from error


def _by_function(value: Any, options: StoreOptions, function: Callable[[Any], bytes | bytearray]) -> Parcel:
    try:
        data = function(value)
    except Exception as error:  # the user's function
        if is_interrupt(error):
            raise
        raise ConfigurationError(
            f"artifact {options.name!r}: its serialization_function failed: {error!r}. Nothing was uploaded"
        ) from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ConfigurationError(
            f"artifact {options.name!r}: its serialization_function must return bytes, not {type(data).__name__}. "
            "Nothing was uploaded"
        )
    return _write(options, "custom", options.suffix, lambda file: file.write(data), preview=text_of_object(value))


def _no_room(options: StoreOptions, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"artifact {options.name!r} cannot be written to {options.scratch}: {error.strerror or error}. "
        "Nothing was uploaded. TELEMETRY_DIR names another folder"
    )


# ---- arrays, frames, images ------------------------------------------------------------------------


def _array(value: Any, options: StoreOptions) -> Parcel:
    import numpy as np

    suffix = _choose(options, (".npz", ".csv.gz"))
    preview = shortened(f"{value.dtype} {value.shape}\n{text_of_object(value)}")
    if suffix == ".csv.gz" and (value.dtype.kind not in "biuf" or value.dtype.itemsize > 8 or not 1 <= value.ndim <= 2):
        log.warning(
            "artifact %r: an array of %d dimensions and dtype %s is no table of numbers; it is stored as .npz",
            options.name,
            value.ndim,
            value.dtype,
        )
        suffix = ".npz"
    _say_changes(options, array_changes(value, is_text=suffix != ".npz"), suffix)
    name = type(value).__name__
    kept_class = {"class": name} if name in ARRAY_CLASSES and type(value) is getattr(np, name, None) else {}
    try:
        if suffix == ".npz":
            # Its key is the artifact's name as in file names, and never one of savez's own arguments.
            key = file_stem(options.name)
            key = f"{key}_" if key in ("file", "allow_pickle") else key
            return _write(
                options,
                "numpy",
                ".npz",
                lambda file: np.savez(file, **{key: value}),
                preview=preview,
                form=kept_class or None,
            )
        # Text of numpy's shortest kind that reads back as the same number.
        rows = value.astype(np.uint8) if value.dtype.kind == "b" else value
        form = {"dtype": value.dtype.str, "shape": list(value.shape), **kept_class}
        return _write(
            options,
            "numpy",
            ".csv.gz",
            lambda file: _gzipped(file, lambda inner: np.savetxt(inner, rows, fmt="%s", delimiter=",")),
            preview=preview,
            form=form,
        )
    except OSError as error:
        if is_interrupt(error):
            raise
        raise _no_room(options, error) from error
    except Exception as error:  # an array of objects that cannot be pickled
        if is_interrupt(error):
            raise
        raise ConfigurationError(
            f"artifact {options.name!r}: the array cannot be written: {error}. Nothing was uploaded"
        ) from error


def _gzipped(file: Any, write: Callable[[Any], object]) -> None:
    # No time and no name in it: equal contents are equal files, and are stored once.
    with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as inner:
        write(inner)


def _frame(value: Any, options: StoreOptions) -> Parcel:
    suffix = _choose(options, (".csv.gz", ".parquet", ".feather", ".pickle"))
    preview = text_of_object(value)
    nested = value.index.nlevels > 1 or value.columns.nlevels > 1
    if nested and suffix in (".csv.gz", ".feather"):
        suffix = ".pickle"  # neither has levels
    if suffix in (".parquet", ".feather"):
        try:
            return _table(value, options, suffix, preview)
        except Exception as error:  # no pyarrow, or a frame that the format has no place for
            if is_interrupt(error):
                raise
            if isinstance(error, OSError) and error.errno is not None:
                raise _no_room(options, error) from error
            suffix = ".pickle" if nested else ".csv.gz"
            log.warning(
                "artifact %r cannot be written as %s; it is %s: %s", options.name, options.suffix, suffix, error
            )
    if suffix == ".pickle":
        return replace(_pickled(value, options), kind="pandas", filename=options.filename(suffix), preview=preview)
    try:
        return _csv(value, options, preview)
    except OSError as error:
        if is_interrupt(error):
            raise
        raise _no_room(options, error) from error
    except Exception as error:  # somebody else's objects in the cells
        if is_interrupt(error):
            raise
        raise ConfigurationError(
            f"artifact {options.name!r}: the frame cannot be written as CSV: {error}. Nothing was uploaded. "
            "extension_name='.pickle' may do"
        ) from error


def _table(value: Any, options: StoreOptions, suffix: str, preview: str) -> Parcel:
    changes = table_changes(value, suffix)
    parcel = _write(
        options,
        "pandas",
        suffix,
        lambda file: write_table(value, file, suffix),
        preview=preview,
        form=table_form(value),
    )
    _say_changes(options, changes, suffix)
    return parcel


def _csv(value: Any, options: StoreOptions, preview: str) -> Parcel:
    form, lossy = csv_form(value)
    if lossy:
        log.warning(
            "artifact %r: CSV has only the text of %s; extension_name='.parquet' or '.pickle' keeps more",
            options.name,
            ", ".join(lossy),
        )
    return _write(
        options,
        "pandas",
        ".csv.gz",
        lambda file: _gzipped(file, lambda inner: write_csv(value, inner, form)),
        preview=preview,
        form=form,
    )


def _image(value: Any, options: StoreOptions) -> Parcel:
    from PIL import Image

    # Fills the table of extensions, which knows five before.
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
    suffix = _choose(options, (".png", *sorted(known - {".png"})))
    # PNG has no floats and no CMYK; TIFF has.
    for attempt in dict.fromkeys((suffix, ".png", ".tiff")):
        image_format = Image.registered_extensions().get(attempt)
        if image_format is None:
            continue
        try:
            parcel = _write(
                options,
                "image",
                attempt,
                lambda file, name=image_format: value.save(file, format=name, **_save_options(value, name)),  # type: ignore[misc]
            )
        except Exception as error:  # a mode that the format has not, told in many ways
            if is_interrupt(error):
                raise
            if isinstance(error, OSError) and error.errno is not None:
                raise _no_room(options, error) from error
            reason: Exception = error
            continue
        if isinstance(parcel.source, (bytes, Path)):
            hint = "keeps mode and pixels, a file that is uploaded as such is not changed at all"
            _say_changes(options, image_changes(value, parcel.source), image_format, hint=hint)
        if attempt != suffix:
            log.warning("artifact %r: %s; it is stored as %s", options.name, reason, attempt)
        content_type = Image.MIME.get(image_format, parcel.content_type)
        return replace(parcel, content_type=content_type, preview=f"{value.width} x {value.height}, {value.mode}")
    return _pickled(value, options)


def _save_options(image: Any, image_format: str) -> dict[str, Any]:
    """Return what PIL is to be told so that a format which can keep everything does."""
    options: dict[str, Any] = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    if "exif" in image.info and image_format in ("PNG", "JPEG", "WEBP"):
        options["exif"] = image.info["exif"]
    return options


# ---- dicts -----------------------------------------------------------------------------------------


def _dict(value: dict[Any, Any], options: StoreOptions) -> Parcel:
    suffix = _choose(options, (".json", ".yaml", ".yml"))
    try:
        text = _json_text(value, options) if suffix == ".json" else _yaml_text(value, options)
    except Exception as error:  # not of JSON's types; somebody else's objects inside
        if is_interrupt(error):
            raise
        if options.auto_pickle is False:
            raise ConfigurationError(
                f"artifact {options.name!r}: the dict cannot be written as {suffix}: {error}. Nothing was uploaded"
            ) from error
        log.warning("artifact %r cannot be written as %s, but as a pickle: %s", options.name, suffix, error)
        return _pickled(value, options)
    return _write(options, "dict", suffix, lambda file: file.write(text.encode("utf-8")), preview=shortened(text))


def _json_text(value: dict[Any, Any], options: StoreOptions) -> str:
    try:
        text = json.dumps(value, indent=4, sort_keys=options.sort_keys)
    except TypeError:
        # Keys of several types have no order.
        text = json.dumps(value, indent=4)
    _say_changes(options, json_changes(value), "JSON")
    return text


def _yaml_text(value: dict[Any, Any], options: StoreOptions) -> str:
    import yaml

    def dumped(sort_keys: bool) -> str:
        # Without aliases, which a reader in another language may not know; and one that holds itself is refused.
        return str(yaml.dump(value, Dumper=_plain_dumper(), sort_keys=sort_keys, width=1_000_000))

    try:
        text = dumped(options.sort_keys)
    except TypeError:
        text = dumped(False)
    _say_changes(options, yaml_changes(value), "YAML")
    return text


def _plain_dumper() -> Any:
    import yaml

    class PlainDumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return PlainDumper


# ---- texts and paths -------------------------------------------------------------------------------


def _path_or_text(value: str | Path, options: StoreOptions) -> Parcel:
    # The characters: an enum's own str() is its name.
    text = str.__str__(value) if isinstance(value, str) else str(value)
    if isinstance(value, str) and is_url(text.strip()):
        uri = text.strip()
        filename = uri.partition("?")[0].rstrip("/").rpartition("/")[2]
        content_type = content_type_of(filename)
        return Parcel(kind="custom", filename=filename, content_type=content_type, source=None, uri=uri)
    if isinstance(value, Path) or len(value) <= _MAX_PATH_CHARS:
        packed = pack_path(options.name, value, options.scratch)
        if packed is not None:
            return packed
        if isinstance(value, Path):
            raise ConfigurationError(f"artifact {options.name!r}: {value} does not exist. Nothing was uploaded")
        if looks_like_path(value):
            log.warning(
                "artifact %r: there is no file, folder or match %r in %s, so this text itself is stored",
                options.name,
                text,
                absolute_path(Path()),
            )
    suffix = _choose(options, (".txt", ".md", ".csv", ".json", ".yaml", ".html", ".xml", ".log"))
    if type(value) is not str:
        _say_changes(options, [f"its class, {type(value).__name__}"], "text")
    data = text.encode("utf-8", "surrogatepass")
    return _write(options, "string", suffix, lambda file: file.write(data), preview=shortened(text))
