"""Flags, configuration files, and the life of a server process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from parity.cli import build_parser
from parity.core.errors import Unsupported, UsageError
from parity.serve.command import dialect_of, once, settings_of, template_of
from parity.serve.run import Server, bind
from parity.serve.settings import Settings
from parity.text.dialects import dialect_by_name

from .conftest import PATIENCE_S
from .scripted import make_desk


def parse(*words):
    return build_parser("serve").parse_args(["serve", *words])


def test_what_is_made_once_is_made_when_it_is_asked_for():
    made = []

    def make():
        made.append(threading.get_ident())
        time.sleep(0.05)  # so that others ask meanwhile
        return object()

    get = once(make)
    assert not made
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: get(), range(16)))
    assert len(made) == 1
    assert len(set(map(id, found))) == 1


def test_the_defaults_are_safe():
    settings = settings_of(parse())
    assert settings == Settings()
    assert (settings.host, settings.port, settings.allowed_origins) == ("127.0.0.1", 8000, ())
    assert not settings.request_templates
    assert settings.hosts == {"127.0.0.1", "localhost", "::1"}


def test_flags_become_settings():
    arguments = parse(
        "some/model", "--host", "0.0.0.0", "--port", "9", "--served-model-name", "a", "b", "--api-key", "k1", "k2",
        "--request-timeout", "5", "--no-constrain-tool-calls", "--trust-request-chat-template", "--max-model-len", "100",
        "--default-chat-template-kwargs", '{"enable_thinking": false}', "--override-generation-config", '{"temperature": 0.1}',
    )  # fmt: skip
    settings = settings_of(arguments)
    assert (settings.host, settings.port, settings.names, settings.api_keys) == ("0.0.0.0", 9, ("a", "b"), ("k1", "k2"))
    assert (settings.request_timeout_s, settings.constrain_calls, settings.request_templates) == (5.0, False, True)
    assert (settings.default_template, settings.sampling) == ((("enable_thinking", False),), (("temperature", 0.1),))
    assert settings.hosts == frozenset()
    assert (arguments.model_word, arguments.max_model_len) == ("some/model", 100)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--override-generation-config", '{"max_new_tokens": 5}'), "there is no sampling value 'max_new_tokens'"),
        (("--override-generation-config", '{"n": 2}'), "cannot say n"),
        (("--override-generation-config", '{"temperature": "hot"}'), "temperature must be a number"),
    ],
)
def test_sampling_defaults_that_cannot_be(words, told):
    with pytest.raises(UsageError, match=told):
        settings_of(parse(*words))


@pytest.mark.parametrize("flag", ["--shutdown-timeout", "--max-queued-per-key", "--max-stored-responses"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_bounds_that_cannot_be(flag, value):
    with pytest.raises(SystemExit):
        parse(flag, value)
    assert parse(flag, "0")


@pytest.mark.parametrize("words", [("--config", "FILE", "--port", "7"), ("--port", "7", "--config", "FILE")])
def test_a_file_says_what_flags_do_not(tmp_path, words):
    file = tmp_path / "serve.yaml"
    file.write_text("model: m\nport: 5\nhost: '::1'\nserved-model-name: [x, y]\nlog_requests: false\nenforce-eager: true\n")
    arguments = parse(*(str(file) if word == "FILE" else word for word in words))
    settings = settings_of(arguments)
    assert (settings.port, settings.host, settings.names, settings.log_requests) == (7, "::1", ("x", "y"), False)
    assert (arguments.model_flag, arguments.enforce_eager) == ("m", True)


@pytest.mark.parametrize("content", ["- a\n", "{", "no-such-flag: 1\n", "port: many\n"])
def test_a_bad_file_is_named(tmp_path, capsys, content):
    file = tmp_path / "serve.yaml"
    file.write_text(content)
    with pytest.raises(SystemExit):
        parse("--config", str(file))
    assert capsys.readouterr().err


def test_keys_come_from_a_file_and_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    monkeypatch.setenv("PARITY_API_KEY", "three,four")
    assert set(settings_of(parse("--api-key-file", str(file), "--api-key", "one")).api_keys) == {"one", "two", "three", "four"}


def test_an_empty_file_of_keys_does_not_open_the_server(tmp_path):
    file = tmp_path / "keys"
    file.write_text("\n")
    with pytest.raises(UsageError, match="would be open"):
        settings_of(parse("--api-key-file", str(file)))
    with pytest.raises(UsageError, match="cannot be read"):
        settings_of(parse("--api-key-file", str(tmp_path / "none")))


@pytest.mark.parametrize("words", [("--port", "70000"), ("--override-generation-config", '{"temperature": -1}')])
def test_values_that_make_no_sense(words):
    with pytest.raises(UsageError):
        settings_of(parse(*words))


@pytest.mark.parametrize("words", [("--request-timeout", "0"), ("--stall-timeout", "nan"), ("--max-body-bytes", "-1")])
def test_numbers_that_are_none(words, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_each_flag_is_said_once_and_becomes_a_field_that_there_is():
    from dataclasses import fields

    from parity.cli import options
    from parity.core.request import SamplingParams
    from parity.engine.load import EngineConfig
    from parity.serve import command

    tables = {
        Settings: (*command.SERVER, *command.LIMITS, *command.CONVERSATION),
        EngineConfig: options.ENGINE,
        SamplingParams: options.SAMPLING,
    }
    for kind, flags in tables.items():
        names = [flag.field for flag in flags]
        assert len(set(names)) == len(names)
        assert set(names) <= {field.name for field in fields(kind)}


def test_parsers_may_be_named():
    own = dialect_by_name("hermes", "qwen3")
    assert dialect_of(parse(), own) is own
    changed = dialect_of(parse("--tool-call-parser", "kimi_k2"), own)
    assert (changed.calls, changed.thinking) == (dialect_by_name("kimi_k2").calls, own.thinking)
    with pytest.raises(Unsupported, match="nonsense"):
        dialect_of(parse("--reasoning-parser", "nonsense"), own)


def test_a_template_comes_from_a_file(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages }}")
    assert template_of(parse("--chat-template", str(file))) == "{{ messages }}"
    with pytest.raises(UsageError, match="cannot be read"):
        template_of(parse("--chat-template", str(tmp_path / "none")))


def test_a_port_that_is_taken_is_said_before_anything_is_read():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="try another --port"):
        bind(Settings(port=taken.getsockname()[1]))
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1 .*try another --host"):
        bind(Settings(host="192.0.2.1"))


def test_a_port_that_another_took_meanwhile_is_said():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    desk = make_desk(port=port)
    with bind(desk.settings) as first, bind(desk.settings) as second:  # neither listens while it reads its model
        first.listen()
        with pytest.raises(UsageError, match="Address already in use; try another --port"):
            Server(desk, second).serve_forever()


PROGRAM = textwrap.dedent("""
    from parity.serve.run import Server, bind
    from tests.serve.scripted import ScriptedService, make_desk
    desk = make_desk(ScriptedService(lambda prompt: "word " * 200, step_s=0.005), port=PORT, shutdown_timeout_s=5.0)
    Server(desk, bind(desk.settings)).serve_forever()
    print("stopped well")
""")


def start(port):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = PROGRAM.replace("PORT", str(port))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    line = process.stderr.readline()
    assert "is ready at http://127.0.0.1:" in line
    return process, line.split(" is ready at ")[1].strip()


def test_killed_under_load_and_started_again_on_the_same_port():
    process, url = start(0)
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": True}
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
    finally:
        process.communicate(timeout=PATIENCE_S)
    again, same = start(int(url.rpartition(":")[2]))
    try:
        answer = httpx.post(f"{same}/v1/chat/completions", json=body | {"stream": False, "max_tokens": 5}, timeout=PATIENCE_S)
        assert answer.json()["choices"][0]["message"]["content"] == "word "
    finally:
        again.send_signal(signal.SIGTERM)
        out, _ = again.communicate(timeout=PATIENCE_S)
    assert "stopped well" in out
    assert again.returncode == 0


def test_terminated_while_answering_it_finishes_the_answer():
    process, url = start(0)
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 100}
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
    finally:
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert rest[-1] == "data: [DONE]"
    assert "stopped well" in out


def test_help_needs_no_torch():
    code = "import sys; from parity.cli import main; main(['serve', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0
    assert "--api-key" in done.stdout
