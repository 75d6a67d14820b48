# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy's container: what the engine is asked for, when it is exchanged, and how an engine and an Envoy are understood."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _envoy, _proxy, _proxy_run
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._engine import Engine, split_reference
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._proxy_spec import proxy_spec

Object = dict[str, Any]
IMAGE = "registry.test:5000/istio/asm-proxy:1.8.4"
ENV = (
    'TRUST_DOMAIN=cluster.local\nPOD_NAMESPACE=vmns\nSERVICE_ACCOUNT=vmsa\nOUTPUT_CERTS=/x\nISTIO_METAJSON_LABELS={"a": "b=c"}\n'
)
MESH = '{"defaultConfig": {"discoveryAddress": "istiod.istio-system.svc:30012"}}'


def options(**more: Any) -> Object:
    checked = ArgumentSpecValidator(proxy_spec()).validate({"image": IMAGE, **more})
    assert checked.error_messages == []
    return dict(checked.validated_parameters)


def seen(**more: Any) -> _proxy.Observed:
    return _proxy.Observed(image="abc", texts={"cluster.env": ENV, "mesh.yaml": MESH}, issued=True, **more)


def running(words: Object, observed: _proxy.Observed, **more: Any) -> _proxy.Container:
    """The container as the engine shows it after it was asked for."""
    made = _proxy.body(words, observed)
    shown = {
        "Image": f"sha256:{observed.image}",
        "Config": {"Image": made["Image"], "Env": made["Env"], "Cmd": made.get("Cmd"), "Labels": made["Labels"]},
        "HostConfig": made["HostConfig"],
        "State": {"Running": True, "Pid": 42},
        **more,
    }
    found = _proxy.container(shown)
    assert found is not None
    return found


def actions(words: Object, observed: _proxy.Observed) -> list[str]:
    return [str(change) for change in _proxy.plan(words, observed).changes]


def test_the_container_has_what_the_vendor_gives_it_and_its_limits() -> None:
    made = _proxy.body(options(memory="512m", cpus=1.5), seen())
    host = made["HostConfig"]
    assert (host["NetworkMode"], host["RestartPolicy"], host["CapAdd"]) == ("host", {"Name": "always"}, ["NET_ADMIN"])
    assert (host["Memory"], host["NanoCpus"]) == (512 * 2**20, 1_500_000_000)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert "/opt/asm_proxy/certs:/opt/istio/certs" in host["Binds"]
    assert 'ISTIO_METAJSON_LABELS={"a": "b=c"}' in made["Env"]
    assert "Cmd" not in made and "Entrypoint" not in made


@pytest.mark.parametrize(("user", "uid"), [("", "1337"), ("1337:1337", "1337"), ("2000", "2000"), ("istio-proxy", "1337")])
def test_the_folder_of_the_sockets_is_the_agents_at_a_restart_too(user: str, uid: str) -> None:
    assert _proxy.body(options(user=user), seen())["HostConfig"]["Tmpfs"][_proxy.SOCKET_FOLDER].endswith(f"uid={uid}")


def test_podman_gets_a_volume_for_the_sockets_because_its_tmpfs_has_no_owner() -> None:
    made = _proxy.body(options(), seen(engine="podman", boots=False))
    assert made["Volumes"] == {_proxy.SOCKET_FOLDER: {}} and "Tmpfs" not in made["HostConfig"]
    notes = _proxy.plan(options(), seen(engine="podman", boots=False)).notes
    assert len(notes) == 1 and "podman-restart.service" in notes[0]
    assert _proxy.plan(options(), seen(engine="podman")).notes == []


@pytest.mark.parametrize(("said", "name"), [("Podman Engine", "podman"), ("Engine", "docker")])
def test_the_engine_says_which_one_it_is(engine: Engine, said: str, name: str) -> None:
    Answers.say["GET /version"] = (200, json.dumps({"Components": [{"Name": said}, {"Name": "Conmon"}]}).encode())
    assert engine.name() == name


def test_a_container_that_is_being_removed_is_gone() -> None:
    assert _proxy.container({"State": {"Status": "removing"}}) is None


def test_a_removal_that_another_run_began_is_waited_for(engine: Engine) -> None:
    Answers.say["DELETE /containers/x"] = (409, b'{"message": "removal of container x is already in progress"}')
    Answers.say["GET /containers/x/json"] = (200, b'{"State": {"Status": "removing"}}')
    timer = threading.Timer(0.3, Answers.say.pop, ["GET /containers/x/json"])
    timer.start()
    engine.remove("x")
    assert "GET /containers/x/json" not in Answers.say


def test_a_helper_has_no_port_of_its_own_in_common_with_the_proxy() -> None:
    usual, helper = (_proxy.body(options(), seen(), helper=one) for one in (False, True))
    env = dict(word.split("=", 1) for word in helper["Env"])
    config = json.loads(env["PROXY_CONFIG"])
    ports = {config["proxyAdminPort"], config["statusPort"], int(env["ENVOY_STATUS_PORT"]), int(env["ENVOY_PROMETHEUS_PORT"])}
    ports.add(int(env["DNS_PROXY_ADDR"].rpartition(":")[2]))
    assert len(ports) == 5 and not ports & {15000, 15001, 15006, 15020, 15021, 15053, 15090}
    assert "OUTPUT_CERTS=/x" in usual["Env"] and "OUTPUT_CERTS" not in env


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"memory": "1g"}, "memory"),
        ({"cpus": 2}, "cpus"),
        ({"env": {"A": "b"}}, "env"),
        ({"args": ["proxy", "sidecar"]}, "configuration"),
        ({"volumes": ["/a:/b"]}, "mounts"),
        ({"restart_policy": "unless-stopped"}, "restart"),
        ({"log_max_size": "5m"}, "logs"),
        ({"capabilities": []}, "capabilities"),
    ],
)
def test_each_option_that_changes_exchanges_the_proxy(change: Object, field: str) -> None:
    words = options()
    present = running(words, seen())
    assert actions(words, seen(proxy=present, ready=True)) == []
    made = _proxy.plan(options(**change), seen(proxy=present, ready=True))
    assert [str(one) for one in made.changes] == ["replace asm-proxy"]
    assert field in made.changes[0].reason


def test_another_image_behind_the_same_name_and_other_files_exchange_it_too() -> None:
    words = options()
    present = running(words, seen())
    moved = seen(proxy=present)
    moved.image = "def"
    assert actions(words, moved) == ["replace asm-proxy"]
    other = seen(proxy=present)
    other.texts["mesh.yaml"] = "{}"
    assert actions(words, other) == ["replace asm-proxy"]


def test_variables_that_are_secrets_by_their_names_are_not_shown() -> None:
    words = options(env={"TRACING_ACCESS_TOKEN": "planted", "TOKEN": "", "MODE": "shown"})
    present = running(words, seen())
    plans = [
        _proxy.plan(words, seen()),
        _proxy.plan(options(env={"TRACING_ACCESS_TOKEN": "planted too"}), seen(proxy=present)),
        _proxy.plan(options(state="absent"), seen(proxy=present)),
    ]
    for made in plans:
        text = json.dumps(made.as_list())
        assert "planted" not in text and "TRACING_ACCESS_TOKEN=" in text
    assert "MODE=shown" in json.dumps(plans[0].as_list())


def test_what_docker_update_changed_is_seen() -> None:
    words = options(memory="512m")
    present = running(words, seen())
    present.view["memory"] = 2**30
    assert actions(words, seen(proxy=present)) == ["replace asm-proxy"]


def test_an_exchange_that_was_cut_short_is_completed() -> None:
    words = options()
    helper, proxy = running(words, seen()), running(words, seen())
    assert actions(words, seen(helper=helper)) == ["create asm-proxy", "start asm-proxy", "remove asm-proxy-next"]
    assert actions(words, seen(proxy=proxy, helper=helper, serving=True)) == ["remove asm-proxy-next"]
    # it says that it is ready, and has given its ports away: the helper may not go
    assert actions(words, seen(proxy=proxy, helper=helper, serving=False)) == ["replace asm-proxy"]


def test_leaving_takes_the_helper_too() -> None:
    words = options(state="absent", remove_image=True)
    one = running(options(), seen())
    assert actions(words, seen(proxy=one, helper=one)) == [
        "remove asm-proxy-next",
        "remove asm-proxy",
        f"remove image {IMAGE}",
    ]
    assert actions(options(state="absent"), seen()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"image": None}, "which image"),
        ({"image": "a b"}, "no image"),
        ({"image": "-rm"}, "no image"),
        ({"name": "../x"}, "name of a container"),
        ({"memory": "much"}, "amount of memory"),
        ({"memory": "1k"}, "amount of memory"),
        ({"cpus": 0}, "number of CPUs"),
        ({"cpus": -1}, "number of CPUs"),
    ],
)
def test_bad_input(words: Object, says: str) -> None:
    with pytest.raises(MigrationError, match=says):
        _proxy_run.check(options(**words))


def test_words() -> None:
    assert split_reference(IMAGE) == ("registry.test:5000/istio/asm-proxy", "1.8.4")
    assert split_reference("registry.test:5000/asm-proxy") == ("registry.test:5000/asm-proxy", "latest")
    assert split_reference("a/b@sha256:00") == ("a/b", "sha256:00")
    assert _proxy.parse_env('A=\'x y\'\n# B=c\nC="d"\nE={"f": 1}\nbad\n') == {"A": "x y", "C": "d", "E": '{"f": 1}'}
    assert _proxy.spiffe({"cluster.env": ENV}) == "spiffe://cluster.local/ns/vmns/sa/vmsa"
    assert _proxy.spiffe({}) == ""
    assert (_proxy.istiod_port({"mesh.yaml": MESH}), _proxy.istiod_port({"mesh.yaml": "a: [b"})) == (30012, 15012)


# -- sockets: the kernel's own -------------------------------------------------------------------------------------------------


def test_two_processes_on_one_port_are_told_apart() -> None:
    with socket.socket() as mine:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        port = mine.getsockname()[1]
        child = os.fork()
        if child == 0:  # the other proxy: a socket of its own on the same port, and none of ours
            mine.close()
            other = socket.socket()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            while True:
                threading.Event().wait(60)
        try:
            end = threading.Event()
            for _try in range(100):
                if len(_envoy.listeners([port]).get(port, ())) == 2:
                    break
                end.wait(0.02)
            assert len(_envoy.listeners([port])[port]) == 2
            assert _envoy.holds([port], [os.getpid()]) and _envoy.holds([port], [child])
            assert child in _envoy.descendants(os.getpid())
            mine.close()
            assert not _envoy.holds([port], [os.getpid()])
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


def test_connections_are_counted_by_who_holds_them() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert _envoy.connections([port], [os.getpid()]) == 0
        client.connect(("127.0.0.1", port))
        accepted, _peer = server.accept()
        with accepted:
            assert _envoy.connections([port], [os.getpid()]) == 1
            assert _envoy.connections([port], []) == 0
            assert _envoy.connected(port, [os.getpid()])
        assert not _envoy.connected(port, [1])


def test_what_envoy_says() -> None:
    chain = [{"subject_alt_names": [{"uri": "spiffe://cluster.local/ns/a/sa/b"}], "expiration_time": "2026-01-01T00:00:00Z"}]
    assert _envoy.identity({"certificates": [{"ca_cert": [], "cert_chain": []}, {"cert_chain": chain}]}) == {
        "spiffe": "spiffe://cluster.local/ns/a/sa/b",
        "certificate_expires": "2026-01-01T00:00:00Z",
    }
    text = 'cluster_manager.cds.version_text: "v1/2"\nlistener_manager.lds.update_rejected: 2\n'
    text += "cluster_manager.cds.update_rejected: 1\n"
    assert _envoy.numbers(text) == {"rejected": 3, "clusters": "v1/2"}


# -- an engine -----------------------------------------------------------------------------------------------------------------


class Answers(http.server.BaseHTTPRequestHandler):
    """Says what the test wants it to say."""

    say: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))  # who answers before that breaks the client's pipe
        status, body = self.say.get(f"{self.command} {self.path.split('?')[0]}", (404, b'{"message": "no such thing"}'))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET

    def log_message(self, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    path = str(tmp_path / "engine.sock")
    with socketserver.ThreadingUnixStreamServer(path, Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Answers.say = {}
        yield Engine(path, timeout=5)
        server.shutdown()


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MigrationError) as error:
        Engine(str(tmp_path / "none.sock")).container("x")
    assert "gives no answer" in error.value.message and "become" in error.value.message


def test_what_is_not_there_is_none_and_what_is_gone_is_gone(engine: Engine) -> None:
    assert engine.container("x") is None
    assert engine.image("a/b:c") is None
    engine.remove("x")


@pytest.mark.parametrize("body", [b"<html>proxy</html>", b"", b'["x"]', b'{"Id": "cut', b"\xff\xfe"])
def test_an_answer_that_is_not_the_engines_is_told(engine: Engine, body: bytes) -> None:
    Answers.say["GET /containers/x/json"] = (200, body)
    with pytest.raises(MigrationError, match=r"no JSON object.*engine_socket"):
        engine.container("x")


def test_the_engines_reason_is_told(engine: Engine) -> None:
    Answers.say["POST /containers/create"] = (409, b'{"message": "the name is in use"}')
    with pytest.raises(MigrationError, match="the name is in use"):
        engine.create("x", {})
    Answers.say["POST /containers/x/start"] = (304, b"")
    engine.start("x")


@pytest.mark.parametrize(
    ("status", "body"), [(200, b'{"status": "Pulling"}\n{"error": "unauthorized"}\n'), (500, b'{"message": "unauthorized"}')]
)
def test_a_pull_that_fails_at_once_or_in_its_stream_is_an_error(engine: Engine, status: int, body: bytes) -> None:
    Answers.say["POST /images/create"] = (status, body)
    with pytest.raises(MigrationError, match=r"cannot be pulled.*unauthorized"):
        engine.pull("registry.test/a:1", ("user", "password-that-nobody-sees"))


def test_the_frames_of_a_log(engine: Engine) -> None:
    frames = b"".join(
        bytes([kind, 0, 0, 0]) + len(text).to_bytes(4, "big") + text for kind, text in ((1, b"one\n"), (2, b"two\n"))
    )
    Answers.say["GET /containers/x/logs"] = (200, frames)
    assert engine.logs("x") == "one\ntwo"
    Answers.say["GET /containers/x/logs"] = (200, b"plain text of a terminal")
    assert engine.logs("x") == "plain text of a terminal"
