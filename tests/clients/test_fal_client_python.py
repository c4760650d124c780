"""fal-client (Python) led by its own variables, FAL_RUN_HOST and FAL_QUEUE_RUN_HOST: fal-protocol.md §1.4."""

import fal_client
import pytest

from server.tls import issue
from tests.clients.client import CLIENTS
from tests.clients.names import Names
from tests.conftest import PUBLISHED
from tests.server_process import ServerProcess, veraicon


def test_the_client_under_test_is_the_pinned_one():
    assert fal_client.__version__ == "1.0.3"


def test_pictures_lead_back_to_the_host_of_the_variable(program, tls_server, pulid_input):
    """9."""
    answer = program('answer["data"] = fal_client.subscribe("fal-ai/pulid", body)', pulid_input)

    assert answer["data"]["images"][0]["url"].startswith(f"{tls_server.url}/files/")


def test_fifty_clients_at_once_all_get_their_own_result(program, pulid_input):
    answer = program(
        """
        import asyncio
        async def one(seed):
            return (await fal_client.subscribe_async("fal-ai/pulid", body | {"seed": seed}))["seed"]
        async def main():
            answer["seeds"] = await asyncio.gather(*map(one, range(50)))
        asyncio.run(main())
        """,
        pulid_input,
    )

    assert answer["seeds"] == list(range(50))


def test_an_old_client_needs_queue_in_front_of_the_studios_own_name(tmp_path, pulid_input):
    """9: before 0.11 there is no FAL_QUEUE_RUN_HOST, so that name must be in DNS and in the certificate."""
    old = next(client for client in CLIENTS if client.id == "py-0.7.0")
    old.require()
    files = issue(tmp_path / "tls", ["gpu1.studio.lan", "queue.gpu1.studio.lan"])
    key = veraicon(tmp_path, "keys", "create", "studio").stdout.splitlines()[-1]
    settings = {"catalog": PUBLISHED, "tls_cert": files.certificate, "tls_key": files.key}
    with ServerProcess(tmp_path, "serve", **settings) as server:
        names = Names(server.wire.address, server.ca_file, tmp_path)
        environment = names.environment | {"FAL_RUN_HOST": "gpu1.studio.lan", "FAL_KEY": key}
        answer = old.run("subscribe", {"endpoint": "fal-ai/pulid", "input": pulid_input}, environment)

    assert answer["data"]["images"][0]["url"].startswith("https://queue.gpu1.studio.lan/files/")
    assert names.asked == {"queue.gpu1.studio.lan"}


@pytest.mark.parametrize("call", ["submit", "run"])
def test_an_unknown_application_is_the_clients_own_error(program, call):
    """10."""
    answer = program(
        f"""
        try:
            fal_client.{call}("fal-ai/nothing", body)
        except fal_client.FalClientHTTPError as error:
            answer.update(status=error.status_code, message=error.message)
        """,
        {},
    )

    assert answer == {"status": 404, "message": "Application 'fal-ai/nothing' not found"}
