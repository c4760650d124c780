"""The wheel alone, installed without dependencies into an empty folder, serves both endpoints: its data travels."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import as_data_uri
from tests.server_process import ROOT, ServerProcess, environment

UV = Path(sys.executable).parent / "uv"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel of this working tree was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    run(
        [str(UV), "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], cwd=folder
    )
    return folder / "site"


def run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class InstalledServer(ServerProcess):
    """`veraicon serve` of the installed wheel, started in a folder where no source lies."""

    site: Path

    def start(self) -> None:
        settings = environment(self.data_dir, **self.settings) | {"PYTHONPATH": str(self.site)}
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.cli", *self.words],
                cwd=self.data_dir,
                env=settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def test_the_wheel_holds_the_three_packages_with_their_data(site):
    for file in ("weights/manifest.toml", "weights/tiny/antelopev2/glintr100.onnx", "server/web/index.html"):
        assert (site / file).is_file(), file
    assert (site / "pipelines" / "instantid" / "styles.json").is_file()
    assert not (site / "tests").exists()


def test_both_endpoints_answer_from_an_installed_wheel(site, tmp_path):
    program = "import server, pipelines, weights; print(server.__file__, pipelines.__file__, weights.__file__)"
    environ = environment(tmp_path) | {"PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", program], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(path.startswith(str(site)) for path in where)

    photo = as_data_uri((ROOT / "scripts" / "data" / "astronaut.png").read_bytes())
    requests = {
        "fal-ai/instantid/lcm": {"face_image_url": photo, "prompt": "man", "num_inference_steps": 1},
        "fal-ai/pulid": {
            "reference_images": [{"image_url": photo}],
            "prompt": "portrait",
            "num_inference_steps": 1,
            "image_size": {"width": 256, "height": 256},
        },
    }
    server = InstalledServer(tmp_path, max_side_px=256)
    server.site = site
    with server:
        for name, request in requests.items():
            answer = server.wire.post(f"/{name}", request, host=None)
            assert answer.status == 200, answer.body
            assert answer.json["seed"] >= 0
