"""tls: certificates for fal's host names."""

from typing import Annotated

import typer

from server import serve as serving
from server.cli.options import DataDir
from server.cli.screen import console
from server.settings import read_settings
from server.tls import expiry, issue, names_of

tls = typer.Typer(help="TLS for fal's host names, from a private authority.", no_args_is_help=True)


@tls.command("issue")
def issue_certificate(
    name: Annotated[list[str] | None, typer.Option(help="Further host name or IP address; repeat as needed.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Issue the certificate (again) from the private authority, which stays the same."""
    files = issue(serving.tls_folder(read_settings(data_dir=data_dir)), name or [])
    console.print(f"Certificate: {files.certificate}, valid until {expiry(files.certificate):%Y-%m-%d}")
    console.print(f"for {', '.join(names_of(files.certificate))}")
    console.print(f"Clients must trust {files.authority.absolute()}:")
    console.print(f"  Node:   NODE_EXTRA_CA_CERTS={files.authority.absolute()}")
    console.print(f"  Python: SSL_CERT_FILE={files.authority.absolute()}")
    console.print("and their DNS (or hosts file) must lead fal's names to this server. Next: `veraicon serve --tls`")
