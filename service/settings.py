"""The environment, read once into one frozen record. Nothing else in the service reads the environment."""

from __future__ import annotations

import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MB = 1 << 20
_RATE = r"\d+ ?(?:/|per) ?(?:\d+ ?)?(?:second|minute|hour|day)s?"
_RATE_LIMITS = re.compile(rf"{_RATE}(?: ?[;,] ?{_RATE})*", re.IGNORECASE)


def _state_dir() -> Path:
    """Return a folder of the user's own for sockets and the like."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"pointserve-{os.getuid()}"


class Settings(BaseSettings):
    """Every setting of the service; each is an environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    address: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(5001, ge=1, le=65535, description="TCP port to listen on.")
    web_workers: int = Field(1, ge=1, le=64, description="Gunicorn worker processes.")
    web_threads: int = Field(96, ge=1, le=512, description="Requests that one gunicorn worker handles at a time.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    api_keys: str = Field(
        "", repr=False, description="Keys of clients: name:key or key, separated by commas; none: no keys at all."
    )
    api_keys_file: str = Field("", description="File with keys of clients, one name:key or key a line.")
    published: str = Field(
        "", description="Address under which others reach the service, where that is not ADDRESS: a container's."
    )
    health_open: bool = Field(True, description="Whether /health answers without a key.")
    metrics_open: bool = Field(False, description="Whether /metrics answers without a key.")
    rate_limit: str = Field("", description="Most requests of one key, or else of one address: 60/minute, 5/second;...")
    hosts: str = Field(
        "", description="Names that requests may call the service by, separated by commas; all if empty."
    )
    api_key: str = Field("", repr=False, description="Key that the commands send to a running service.")

    models: str = Field(
        "parcels",
        description="Models to serve, separated by commas: names, experiment folders, checkpoints; the first is the "
        "default. Empty where MODELS_DIR is given.",
    )
    models_dir: str = Field("", description="Folder whose experiments are served too, each under its folder's name.")
    generation: Literal["auto", "v1.5.1", "v1.5.2", "v1.6"] = Field(
        "auto", description="Which Pointcept trained the experiments' weights; auto: what their configurations tell."
    )
    load_models: Literal["start", "use"] = Field(
        "start", description="When models are loaded: at the start, or on their first use."
    )
    model_memory_bytes: int = Field(
        0, ge=0, description="Device memory that loaded models may take; the least recently used leave. 0: no limit."
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:N, or several of them separated by commas; auto takes every GPU."
    )
    engine: Literal["auto", "spconv", "native"] = Field("auto", description="Which sparse convolution runs the models.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: float16 on a GPU, float32 on a CPU; float32: on both; "
        "bfloat16: as auto, but on CPUs that multiply it faster.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of a worker; 0: one for each core, shared among workers.")

    max_body_bytes: int = Field(512 * MB, ge=1, description="Largest request body, in bytes.")
    max_points: int = Field(20_000_000, ge=1, description="Most points in one cloud.")
    max_queued_points: int = Field(
        100_000_000, ge=1, description="Most points waiting for the device, over all requests."
    )
    max_queued_requests: int = Field(64, ge=1, description="Most requests waiting for the device.")
    deadline_s: float = Field(120.0, gt=0, description="Seconds from a request's arrival to its answer.")
    shutdown_grace_s: float = Field(120.0, ge=0, description="Seconds for running requests when the service ends.")

    batch_window_ms: float = Field(
        2.0, ge=0, description="Longest wait of a free device for clouds that are being prepared, to run them together."
    )
    batch_memory_bytes: int = Field(
        0, ge=0, description="Device memory that one batch may take; 0: half of what the models leave, 128 MB on a CPU."
    )
    worker_memory_bytes: int = Field(
        0, ge=0, description="Resident memory at which a device's worker is ended; 0: four fifths of the machine's."
    )
    worker_silence_s: float = Field(
        30.0, gt=0, description="Seconds that a worker may be silent beyond ten times what its work should take."
    )

    readers: int = Field(2, ge=1, le=64, description="Processes that decode and write users' files.")
    reader_memory_bytes: int = Field(4096 * MB, ge=256 * MB, description="Address space of one reader, in bytes.")
    reader_cpu_s: float = Field(60.0, gt=0, description="CPU seconds that one file may take to decode or to write.")

    state_dir: Path = Field(
        default_factory=_state_dir, description="Folder for the engine's socket, the key made at a start, the metrics."
    )

    @model_validator(mode="before")
    @classmethod
    def _serve_the_folder_alone(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Who gives a folder of models and names none does not ask for the bundled one."""
        return {"models": "", **values} if values.get("models_dir") else values

    @property
    def socket_path(self) -> Path:
        """Path of the engine's Unix socket."""
        return self.state_dir / f"engine-{self.port}.sock"

    @property
    def metrics_dir(self) -> Path:
        """Folder in which the web's processes count together."""
        return self.state_dir / f"metrics-{self.port}"

    @field_validator("rate_limit")
    @classmethod
    def _check_rate_limit(cls, value: str) -> str:
        if value and not _RATE_LIMITS.fullmatch(value.strip()):
            raise ValueError(f"{value!r} is no limit; one looks like 60/minute, several like 5/second;1000/hour")
        return value.strip()


def environment(chosen: Settings, *, keys: bool = False) -> dict[str, str]:
    """Return the environment for a child process in which `settings()` reads the given settings again.

    OpenBLAS would start a thread for each core in every process that imports numpy; none of ours needs them. And glibc
    would keep memory apart for each of the web's threads: with two arenas it stays flat under many clients.

    Args:
        chosen: the settings.
        keys: whether the process may know the API keys. The web checks them; who decodes strangers' files need not.
    """
    own = {name.upper(): str(value) for name, value in chosen.model_dump(mode="json").items()}
    if not keys:
        own |= dict.fromkeys(("API_KEYS", "API_KEYS_FILE", "API_KEY"), "")
    own["PROMETHEUS_MULTIPROC_DIR"] = str(chosen.metrics_dir)
    return {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1", **os.environ, **own}


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process, read from the environment on the first call."""
    return Settings()
