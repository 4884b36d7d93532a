"""Keys of the servers that are measured over a network: anybody's at a URL, and rivals started here."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from veltair.config.section import FolderPath, Name, Section, key

NULL_SERVER = "null"  # measured beside all others
Rival = Literal["mlserver", "ray-serve"]


def _url(url: str) -> str:
    if not url.startswith("http://") or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} is no address of a server; give http://HOST:PORT")
    return url


class RemoteServer(Section):
    """A server that speaks the Open Inference Protocol."""

    url: Annotated[
        Annotated[str, AfterValidator(_url)],
        key("where it is, such as `http://127.0.0.1:8000`; a path goes before the protocol's own"),
    ]
    encoding: Annotated[
        Literal["binary", "json"],
        key("how tensors go: as binary data behind the JSON, or in it, for servers without that extension"),
    ] = "binary"
    names: Annotated[
        dict[Name, Annotated[str, Field(min_length=1)]], key("its names of models that it calls otherwise")
    ] = Field(default={})
    version: Annotated[str, key("version of the models to ask for; empty: the one that it takes")] = ""
    token_variable: Annotated[
        str | None, key("variable of the environment that holds a bearer token", min_length=1)
    ] = None


class Remote(Section):
    """Servers under LoadGen over HTTP; where there are any, a run measures these and nothing else."""

    servers: Annotated[dict[Name, RemoteServer], key("the servers, by the name shown")] = Field(default={})
    rivals: Annotated[
        tuple[Rival, ...],
        key("servers with ONNX Runtime that are started here, each in an environment of its own"),
    ] = ()
    environments: Annotated[FolderPath, key("folder of the environments of rivals")] = ".rivals"
    connections: Annotated[
        int,
        key("connections that are open before a run; beyond these one is opened while its query waits", ge=1),
    ] = 16

    @property
    def is_asked(self) -> bool:
        """Whether any server is to be measured."""
        return bool(self.servers or self.rivals)
