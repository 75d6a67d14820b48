# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the proxy's container and its image come from: podman in Docker's place, a registry that wants a login, a digest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab import vm
from lab.state import Lab
from tests.integration.vm.way import ACCOUNT, NAMESPACE, ToVm, Way, differences, look, machines

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
PODMAN = {"engine_socket": "/run/podman/podman.sock"}
SPIFFE = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{ACCOUNT}"
STORE = f"{vm.RESULTS}/podman"  # an engine's store cannot lie on the machine's root, which is an overlay
STORAGE = f'[storage]\ndriver = "overlay"\ngraphroot = "{STORE}"\nrunroot = "/run/containers/storage"\n'
# A machine of the lab is a container itself: limits cannot be raised there, and cgroups are where the lab's are.
CONTAINERS = """[containers]
default_ulimits = ["nofile={0}:{0}", "nproc={1}:{1}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
REGISTRY, HUB = "127.0.0.1:5000", "istio/asm-proxy"
PASSWORD = "right and proper"


@pytest.fixture
def way(lab: Lab, tmp_path: Path) -> Iterator[Way]:
    with machines(lab, tmp_path, Way) as one:
        one.register()
        yield one


def put(way: Way, path: str, text: str) -> None:
    way.one.run(["sh", "-c", f"mkdir -p $(dirname {path}); cat >{path}"], stdin=text)


def shell(way: Way, script: str, timeout: float = 240) -> str:
    return way.one.run(["sh", "-ec", script], timeout=timeout).stdout.strip()


def podman(way: Way) -> list[str]:
    """Containers and volumes that podman has."""
    return shell(way, "podman ps -a --format '{{.Names}} {{.Image}}'; podman volume ls -q").splitlines()


def test_podman_runs_exchanges_and_keeps_the_proxy(way: Way, lab: Lab) -> None:
    put(way, "/etc/containers/storage.conf", STORAGE)
    put(way, "/etc/containers/containers.conf", CONTAINERS.format(*(shell(way, f"bash -c 'ulimit -H{one}'") for one in "nu")))
    for image in (vm.IMAGE, vm.NEXT_IMAGE):
        shell(way, f"docker save {image} | podman load -q")
    shell(way, "systemctl start podman.socket; systemctl stop docker.socket docker 2>/dev/null || true")
    before = look(way.one)

    joined = way.play(way.identity(), way.proxy(**PODMAN), way.redirect(), options=("-v",))
    assert joined.code == 0, joined.text
    assert "podman-restart.service" in joined.text, "nobody says that a boot would not start it"
    way.wait_for(200)
    assert way.from_vm()["caller"] == SPIFFE and way.plain() == 0
    again = way.play(way.identity(), way.proxy(**PODMAN), way.redirect())
    assert (again.code, again.changed) == (0, 0), again.text

    with ToVm(lab).running(rate=60) as load, way.outbound() as out:
        for image in (vm.NEXT_IMAGE, vm.IMAGE):
            upgraded = way.play(way.proxy(image=image, **PODMAN))
            assert (upgraded.code, upgraded.changed) == (0, 1), upgraded.text
            assert [line.split()[0] for line in podman(way)[:-1]] == ["asm-proxy"], podman(way)
        sums = load.stop()
    print({key: (sums[key], out[key]) for key in ("sent", "ok", "failed")})
    assert sums["failed"] == 0 and sums["ok"] == sums["sent"] > 0, sums
    assert out["failed"] == 0 and out["ok"] == out["sent"] > 0, out

    shell(way, "kill -9 $(pgrep -o pilot-agent)")  # the policy `always`, and the folder of the sockets at a second start
    way.wait_for(200, 60)
    # it is wanted by default.target, and a machine of the lab boots to multi-user.target
    shell(way, "systemctl enable podman-restart.service podman.socket; systemctl add-wants multi-user.target podman-restart")
    rebooted = way.play({"name": "Reboot", "ansible.builtin.reboot": {"reboot_timeout": 120}})
    assert rebooted.code == 0, rebooted.text
    print(shell(way, "systemctl status --no-pager podman-restart || true"))
    way.wait_for(200, 60)
    shell(way, "systemctl stop docker 2>/dev/null || true")
    again = way.play(way.identity(), way.proxy(**PODMAN), way.redirect(), options=("-v",))
    assert (again.code, again.changed) == (0, 0) and "podman starts nothing" not in again.text, again.text
    shell(way, "systemctl disable podman-restart.service podman.socket")

    left = way.play(way.redirect(state="absent"), way.proxy(state="absent", **PODMAN), way.identity(state="absent"))
    assert left.code == 0, left.text
    assert podman(way) == []
    shell(way, "while pgrep -f '[p]odman .*system service' >/dev/null; do sleep 0.5; done")  # it ends when nobody asks any more
    assert differences(before, look(way.one)) == []


def registry(way: Way) -> str:
    """Debian's registry on the VM's loopback, which wants a login, with the proxy's image in it. Gives the image's digest."""
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": f"{vm.RESULTS}/registry"}},
        "http": {"addr": REGISTRY},
        "auth": {"htpasswd": {"realm": "lab", "path": "/run/registry/users"}},
    }
    put(way, "/run/registry/config.yml", yaml.safe_dump(config))
    bcrypt = "chomp; print crypt($_, q{$2b$04$abcdefghijklmnopqrstuu})"
    hashed = way.one.run(["perl", "-ne", bcrypt], stdin=f"{PASSWORD}\n").stdout
    put(way, "/run/registry/users", f"lab:{hashed}\n")
    shell(way, "systemd-run --unit=lab-registry docker-registry serve /run/registry/config.yml")
    put(way, "/run/registry/push", f"""
        export DOCKER_CONFIG=/run/registry/docker
        for i in $(seq 50); do curl -s -o /dev/null http://{REGISTRY}/ && break; sleep 0.2; done
        docker login -u lab --password-stdin {REGISTRY} <<'WORD'
{PASSWORD}
WORD
        docker tag {vm.IMAGE} {REGISTRY}/{HUB}:pushed
        docker push -q {REGISTRY}/{HUB}:pushed
        docker rmi {REGISTRY}/{HUB}:pushed {vm.IMAGE} {vm.NEXT_IMAGE}
        rm -r /run/registry/docker
    """)  # fmt: skip
    shell(way, "sh -e /run/registry/push")
    login = shlex.quote(f"lab:{PASSWORD}")
    accept = "Accept: application/vnd.docker.distribution.manifest.v2+json"
    head = shell(way, f"curl -s -I -u {login} -H '{accept}' http://{REGISTRY}/v2/{HUB}/manifests/pushed")
    return next(line.split()[1].strip() for line in head.splitlines() if line.lower().startswith("docker-content-digest"))


def test_an_image_is_pulled_by_its_digest_with_a_login(way: Way) -> None:
    image = f"{REGISTRY}/{HUB}@{registry(way)}"
    assert shell(way, "docker images -q") == ""
    before = look(way.one)
    words = {"image": image, "pull": "missing", "remove_image": True}
    for more in ({}, {"registry_username": "lab", "registry_password": "of somebody else"}):
        refused = way.play(way.identity(), way.proxy(**words, **more))
        assert refused.code != 0 and "cannot be pulled" in refused.text, refused.text
        assert shell(way, "docker ps -aq") == "" and "of somebody else" not in refused.text
    login = {"registry_username": "lab", "registry_password": PASSWORD}
    wrong = way.play(way.proxy(**{**words, **login, "image": f"{REGISTRY}/{HUB}@sha256:{'0' * 64}"}))
    assert wrong.code != 0 and "cannot be pulled" in wrong.text, wrong.text
    joined = way.play(way.proxy(**words, **login), way.redirect(), options=("-vvv",))
    assert joined.code == 0 and PASSWORD not in joined.text, joined.text
    way.wait_for(200)
    shown = json.loads(shell(way, "docker inspect asm-proxy"))[0]
    assert shown["Config"]["Image"] == image
    again = way.play(way.proxy(**words, **login))
    assert (again.code, again.changed) == (0, 0), again.text
    assert not shell(way, "ls -A /root/.docker 2>/dev/null || true"), "the login was written down"
    absent = (way.redirect(state="absent"), way.proxy(**words, state="absent"), way.identity(state="absent"))
    left = way.play(*absent)
    assert left.code == 0, left.text
    assert differences(before, look(way.one)) == []
