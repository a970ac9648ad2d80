"""Object stores through obstore: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

Credentials come from where each service's own tools look: the environment, for S3 the profiles in ~/.aws as well, for
Google the file of GOOGLE_APPLICATION_CREDENTIALS, for Azure AZURE_STORAGE_*. None are taken from an address.
"""

from __future__ import annotations

import configparser
import logging
import os
import re
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from telemetry.errors import BlobError, ConfigurationError
from telemetry.storage.blobs import PIECE_BYTES, OnProgress

__all__ = ["AwsProfile", "BucketTarget", "aws_profile"]

log = logging.getLogger(__name__)

# Parts of one upload and how many travel at once: 32 MiB in memory, and 80 GB in the 10,000 parts that S3 takes.
_PART_BYTES = 8 * 1024 * 1024
_MAX_PARTS = 9_000
_AT_ONCE = 4
# A part over a slow line.
_REQUEST_TIMEOUT_S = 300.0
_CONNECT_TIMEOUT_S = 10.0
_DEFAULT_REGION = "us-east-1"

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d+)")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")

_WHAT_TO_SET = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile in ~/.aws/credentials; AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS to the file with a service account's key",
    "azure": "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING",
}


@dataclass(frozen=True, slots=True)
class AwsProfile:
    """What the environment and the files in ~/.aws say. The repr does not show the secret."""

    name: str = "default"
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""
    endpoint_url: str = ""


def aws_profile(environ: Mapping[str, str]) -> AwsProfile:
    """Return the credentials, region and endpoint to use for S3; what is nowhere is "".

    As with Amazon's own tools the environment is stronger than the files, of which AWS_PROFILE chooses the profile.

    Raises:
        ConfigurationError: a file cannot be read, or AWS_PROFILE names no profile.
    """
    name = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or ""
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or "~").expanduser()
    keys = _read_ini(Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials"))
    config = _read_ini(Path(environ.get("AWS_CONFIG_FILE") or home / ".aws" / "config"))
    chosen = name or "default"
    # In the config file all but the default one are called "profile NAME".
    of_config = config.get(chosen if chosen == "default" else f"profile {chosen}", {})
    of_keys = {**of_config, **keys.get(chosen, {})}
    if name and not of_keys:
        raise ConfigurationError(f"AWS_PROFILE is {name!r:.80}, and there is no such profile in {home / '.aws'}")
    if environ.get("AWS_ACCESS_KEY_ID"):
        of_keys = {
            **of_keys,
            "aws_access_key_id": environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": environ.get("AWS_SECRET_ACCESS_KEY", ""),
            "aws_session_token": environ.get("AWS_SESSION_TOKEN", ""),
        }
    return AwsProfile(
        chosen,
        of_keys.get("aws_access_key_id", ""),
        of_keys.get("aws_secret_access_key", ""),
        of_keys.get("aws_session_token", ""),
        environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or of_keys.get("region", ""),
        environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or of_keys.get("endpoint_url", ""),
    )


def _read_ini(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # The text of a parser's error may show a line with a secret in it.
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}") from None
    return {section: dict(parser[section]) for section in parser.sections()}


class BucketTarget:
    """See storage.Target; a bucket or container, and a folder in it.

    Raises:
        ConfigurationError: the address lacks the bucket, or the port of a service that is not Amazon's.
    """

    is_remote = True

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        parts = urlsplit(self.uri)
        self._scheme = parts.scheme.lower()
        if parts.username or parts.password:
            raise ConfigurationError(
                f"output_uri at {parts.hostname} holds a user name or password; set {_WHAT_TO_SET[self._scheme]}"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"output_uri {self.uri}: {error}") from error
        path = [unquote(part) for part in parts.path.split("/") if part]
        self._host = ""
        if self._scheme == "azure" or port is not None:
            # azure://account.blob.core.windows.net/container, s3://host:port/bucket
            self._host = parts.netloc
            if not path:
                word = "container" if self._scheme == "azure" else "bucket"
                raise ConfigurationError(f"output_uri {self.uri} names no {word}: add /{word.upper()} to it")
            self._bucket, self._prefix = path[0], "/".join(path[1:])
        else:
            self._bucket, self._prefix = parts.netloc, "/".join(path)
        if not self._bucket:
            raise ConfigurationError(f"output_uri {self.uri!r} names no bucket")
        self._stores: dict[float, Any] = {}

    def put(self, key: str, source: Path, on_progress: OnProgress | None = None) -> str:
        """See Target. In parts, four at a time; memory stays at some 50 MiB for files of up to 72 GB."""
        obstore = _obstore()
        try:
            part_bytes = max(_PART_BYTES, -(-source.stat().st_size // _MAX_PARTS))
            store = self._store(_REQUEST_TIMEOUT_S)
            writer = obstore.open_writer(store, self._path(key), buffer_size=part_bytes, max_concurrency=_AT_ONCE)
            done_bytes = 0
            # Left by an exception, it takes back the parts that were sent.
            with source.open("rb") as file, writer:
                while piece := file.read(PIECE_BYTES):
                    writer.write(piece)
                    done_bytes += len(piece)
                    if on_progress is not None:
                        on_progress(done_bytes)
        except Exception as error:
            if not _is_of_storage(error):
                raise
            raise BlobError(f"{self._uri_of(key)} cannot be written: {self._said(error)}") from error
        return self._uri_of(key)

    def read(self, key: str, on_piece: Callable[[bytes], object]) -> None:
        """See Target."""
        obstore = _obstore()
        try:
            for piece in obstore.get(self._store(_REQUEST_TIMEOUT_S), self._path(key)).stream(
                min_chunk_size=PIECE_BYTES
            ):
                on_piece(bytes(piece))
        except Exception as error:
            if not _is_of_storage(error):
                raise
            raise BlobError(f"{self._uri_of(key)} cannot be read: {self._said(error)}") from error

    def check(self, timeout_s: float) -> None:
        """See Target."""
        obstore = _obstore()
        probe = self._path(f".telemetry-check-{uuid.uuid4().hex}")
        try:
            store = self._store(timeout_s)
            obstore.put(store, probe, b"telemetry", use_multipart=False)
        except Exception as error:
            if not _is_of_storage(error):
                raise
            raise ConfigurationError(
                f"output_uri {self.uri} cannot be written: {self._said(error)}. "
                f"Set {_WHAT_TO_SET[self._scheme]}. No task was started"
            ) from error
        try:
            obstore.delete(store, probe)
        except Exception as error:
            if not _is_of_storage(error):
                raise
            # Who may write and not delete can keep models there all the same.
            log.warning("the test object %s in %s could not be deleted: %s", probe, self.uri, self._said(error))

    # ---- inside ----------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _uri_of(self, key: str) -> str:
        return f"{self.uri}/{quote(key)}"

    def _store(self, timeout_s: float) -> Any:
        store = self._stores.get(timeout_s)
        if store is None:
            make = {"s3": self._make_s3, "gs": self._make_gs, "azure": self._make_azure}[self._scheme]
            client = {
                "connect_timeout": f"{min(timeout_s, _CONNECT_TIMEOUT_S):g}s",
                "timeout": f"{timeout_s:g}s",
            }
            # The check fails at once; an upload has its own way to try again, and this only bridges hiccups.
            retry = {"max_retries": 0 if timeout_s < _REQUEST_TIMEOUT_S else 3}
            store = self._stores[timeout_s] = make(client, retry, timeout_s)
        return store

    def _make_s3(self, client: dict[str, Any], retry: dict[str, Any], timeout_s: float) -> Any:
        profile = aws_profile(os.environ)
        config: dict[str, Any] = {"region": profile.region or _DEFAULT_REGION}
        if profile.access_key_id:
            config |= {
                "access_key_id": profile.access_key_id,
                "secret_access_key": profile.secret_access_key,
            }
            if profile.session_token:
                config["session_token"] = profile.session_token
        endpoint = self._s3_endpoint(profile, timeout_s)
        if endpoint:
            # Services other than Amazon's have no name for each bucket.
            config |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
            client["allow_http"] = endpoint.startswith("http://")
        return _obstore().store.S3Store(self._bucket, client_options=client, retry_config=retry, **config)

    def _s3_endpoint(self, profile: AwsProfile, timeout_s: float) -> str:
        if not self._host:
            return profile.endpoint_url.rstrip("/")
        if urlsplit(profile.endpoint_url).netloc == self._host:
            return profile.endpoint_url.rstrip("/")
        return f"{'https' if _speaks_tls(self._host, min(timeout_s, _CONNECT_TIMEOUT_S)) else 'http'}://{self._host}"

    def _make_gs(self, client: dict[str, Any], retry: dict[str, Any], timeout_s: float) -> Any:
        return _obstore().store.GCSStore(self._bucket, client_options=client, retry_config=retry)

    def _make_azure(self, client: dict[str, Any], retry: dict[str, Any], timeout_s: float) -> Any:
        config: dict[str, Any] = {"account_name": self._host.partition(".")[0]}
        pairs = (item.partition("=") for item in os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"))
        connection = {name: value for name, _, value in pairs}
        key = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_KEY")
        key = key or connection.get("AccountKey")
        if key:
            config["account_key"] = key
        elif connection.get("SharedAccessSignature"):
            config["sas_key"] = connection["SharedAccessSignature"]
        return _obstore().store.AzureStore(self._bucket, client_options=client, retry_config=retry, **config)

    def _said(self, error: Exception) -> str:
        """Return an error in one line, without the answer's XML and the library's own report behind it."""
        text = str(error)
        code, status, message = _CODE.search(text), _STATUS.search(text), _MESSAGE.search(text)
        word = code[1] if code else f"status {status[1]}" if status else ""
        if word == "NoSuchBucket":
            return f"there is no bucket {self._bucket!r} (NoSuchBucket)"
        if word in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken"):
            return f"the credentials are refused ({word}: {message[1] if message else 'no reason given'})"
        if word:
            return f"{word}: {message[1]}" if message else f"the service answered {word}"
        if "169.254.169.254" in text or "metadata" in text.lower():
            return "there are no credentials: none are set, and this machine has no metadata service that gives any"
        # A query may be a signature.
        line = re.sub(r"\?\S*", "", text.partition("\n")[0])
        return f"no answer from {self._host or self._bucket} ({line:.300})" if "error sending" in text else line[:300]


def _obstore() -> Any:
    """Return the library.

    Raises:
        ConfigurationError: it is not installed; the message is the command that installs it.
    """
    try:
        import obstore
        import obstore.store
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "object stores (s3://, gs://, azure://) need obstore, which is not installed: "
            "pip install 'telemetry-tasks[storage]'"
        ) from error
    return obstore


def _is_of_storage(error: Exception) -> bool:
    """Say whether an error comes from the storage or the disk, not from us."""
    import obstore.exceptions

    return isinstance(error, (obstore.exceptions.BaseError, OSError))


def _speaks_tls(netloc: str, timeout_s: float) -> bool:
    """Ask a service whether it speaks TLS; one that cannot be reached or has a wrong certificate is taken to."""
    host, _, port = netloc.rpartition(":")
    host = host.strip("[]")
    context = ssl.create_default_context()
    try:
        with socket.create_connection((host, int(port)), timeout_s) as plain:
            with context.wrap_socket(plain, server_hostname=host):
                return True
    except ssl.SSLCertVerificationError:
        return True
    except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError):
        return False
    except OSError:
        return True
