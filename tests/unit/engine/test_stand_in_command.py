"""The command stand-in keeps the contract of pulumi-command 1.2.1, traps included."""

from __future__ import annotations

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest

from lab.engine import values
from lab.engine.command import COMMAND, COPY, LOCAL, Command
from lab.engine.output import LONGEST_LINE
from lab.engine.rpc import proto

LINE_LIMIT = LONGEST_LINE
WARNING, ERROR = 2, 3


class Plugin:
    """Calls the provider as the engine does; every call may take at most `patience` seconds."""

    def __init__(self, engine: Any, context: Any, patience: float = 15) -> None:
        self.engine, self.context, self.patience = engine, context, patience

    def call(self, method: str, request: Any) -> Any:
        async def scenario() -> Any:
            provider = Command(self.engine)
            call = getattr(provider, method)(request, self.context)
            return await asyncio.wait_for(call, self.patience)

        return asyncio.run(scenario())

    def check(self, inputs: dict[str, Any], kind: str = COMMAND) -> Any:
        return self.call("Check", proto.CheckRequest(urn=urn(kind), news=values.struct(inputs)))

    def create(self, inputs: dict[str, Any], kind: str = COMMAND, *, preview: bool = False) -> dict[str, Any]:
        request = proto.CreateRequest(urn=urn(kind), properties=values.struct(inputs), preview=preview)
        answer = self.call("Create", request)
        return {**values.plain(answer.properties), "id": answer.id}

    def update(
        self, old: dict[str, Any], new: dict[str, Any], kind: str = COMMAND, *, preview: bool = False, **outputs: str
    ) -> dict[str, Any]:
        request = proto.UpdateRequest(
            urn=urn(kind),
            olds=values.struct({**old, **outputs}),
            old_inputs=values.struct(old),
            news=values.struct(new),
            preview=preview,
        )
        found: dict[str, Any] = values.plain(self.call("Update", request).properties)
        return found

    def diff(self, old: dict[str, Any], new: dict[str, Any], kind: str = COMMAND) -> Any:
        request = proto.DiffRequest(
            urn=urn(kind), old_inputs=values.struct(old), olds=values.struct(old), news=values.struct(new)
        )
        return self.call("Diff", request)


def urn(kind: str) -> str:
    return f"urn:pulumi:dev::mail::{kind}::step"


@pytest.fixture
def plugin(engine: Any) -> Plugin:
    return Plugin(engine, SimpleNamespace(abort=_abort))


class RefusedError(Exception):
    """What the engine would show."""


async def _abort(code: Any, text: str) -> None:
    raise RefusedError(text)


def text_asset(text: str, digest: str) -> dict[str, str]:
    return {values.SIG: values.ASSET, "text": text, "hash": digest}


# --- checking and comparing --------------------------------------------------------------


def test_the_connection_becomes_a_secret_with_the_providers_defaults(plugin: Plugin) -> None:
    inputs = values.plain(plugin.check({"connection": {"host": "mail.test"}, "create": "true"}).inputs)
    assert inputs["connection"] == values.secret(
        {"host": "mail.test", "user": "root", "port": 22, "dialErrorLimit": 10, "perDialTimeout": 15}
    )


def test_a_command_without_a_connection_and_with_an_unknown_property_is_refused(plugin: Plugin) -> None:
    failures = plugin.check({"create": "true", "cwd": "/"}).failures
    assert [(f.property, f.reason.split()[0]) for f in failures] == [("connection", "Missing"), ("cwd", "Unrecognized")]


def test_a_changed_trigger_replaces_and_is_named_as_the_property_it_is_in(plugin: Plugin) -> None:
    answer = plugin.diff({"create": "a", "triggers": ["1"]}, {"create": "a", "triggers": ["2"]})
    assert (list(answer.diffs), list(answer.replaces)) == (["triggers"], ["triggers"])


@pytest.mark.parametrize("name", ["create", "update", "delete", "stdin", "connection", "environment", "logging"])
def test_any_other_changed_input_updates_in_place(plugin: Plugin, name: str) -> None:
    answer = plugin.diff({name: "a"}, {name: "b"})
    assert (list(answer.diffs), list(answer.replaces)) == ([name], [])


def test_equal_inputs_are_no_change(plugin: Plugin) -> None:
    inputs = {"create": "a", "connection": values.secret({"host": "h"}), "triggers": ["1"]}
    assert plugin.diff(inputs, inputs).changes == proto.DiffResponse.DIFF_NONE


def test_a_changed_asset_is_named_by_its_property_alone(plugin: Plugin) -> None:
    answer = plugin.diff({"source": text_asset("a", "1")}, {"source": text_asset("b", "2")}, COPY)
    assert (list(answer.diffs), list(answer.detailedDiff)) == (["source"], ["source"])


def test_the_provider_resource_carries_the_mark_of_go_providers(plugin: Plugin) -> None:
    answer = plugin.call("CheckConfig", proto.CheckRequest(news=values.struct({})))
    assert values.plain(answer.inputs) == {"__pulumi-go-provider-version": "1.3.0"}


def test_a_preview_knows_no_output_and_dials_nobody(plugin: Plugin) -> None:
    inputs = {"connection": {"host": "unreachable.invalid"}, "create": "true"}
    outputs = plugin.create(inputs, preview=True)
    assert (outputs["stdout"], outputs["stderr"]) == (values.UNKNOWN, values.UNKNOWN)


def test_a_refresh_finds_everything_as_it_was(plugin: Plugin) -> None:
    state = values.struct({"create": "a", "stdout": "old"})
    answer = plugin.call("Read", proto.ReadRequest(id="x", urn=urn(COMMAND), properties=state, inputs=state))
    assert values.plain(answer.properties) == {"create": "a", "stdout": "old"}


# --- commands on a server -------------------------------------------------------------------


def test_a_command_gets_stdin_and_loses_one_final_newline_of_output(plugin: Plugin, server: Any) -> None:
    script = "cat; echo; echo problem >&2"
    outputs = plugin.create({"connection": server.connection(), "create": script, "stdin": "from stdin\n"})
    assert (outputs["stdout"], outputs["stderr"]) == ("from stdin\n", "problem")


def test_output_is_no_secret_even_when_stdin_is(plugin: Plugin, server: Any) -> None:
    inputs = {"connection": server.connection(), "create": "cat", "stdin": values.secret("canary")}
    assert plugin.create(inputs)["stdout"] == "canary"


def test_an_update_without_an_update_script_runs_create_again(plugin: Plugin, server: Any) -> None:
    old = {"connection": server.connection(), "create": "echo one"}
    new = {"connection": server.connection(), "create": "echo two"}
    assert plugin.update(old, new, stdout="one", stderr="")["stdout"] == "two"


def test_an_update_prefers_its_own_script(plugin: Plugin, server: Any) -> None:
    inputs = {"connection": server.connection(), "create": "echo create", "update": "echo update"}
    assert plugin.update(inputs, {**inputs, "stdin": "x"}, stdout="", stderr="")["stdout"] == "update"


def test_a_failure_prints_the_whole_script_and_what_it_said(plugin: Plugin, server: Any) -> None:
    script = 'echo "so far"\nexit 7'
    with pytest.raises(RefusedError) as caught:
        plugin.create({"connection": server.connection(), "create": script})
    assert str(caught.value) == 'Process exited with status 7: running "echo \\"so far\\"\\nexit 7":\nso far\n'


def test_stdout_and_stderr_are_told_as_separate_messages(plugin: Plugin, server: Any, engine: Any) -> None:
    plugin.create({"connection": server.connection(), "create": "printf out; echo err >&2"})
    assert sorted(engine.texts()) == ["err", "out"]


def test_with_logging_none_nothing_is_told(plugin: Plugin, server: Any, engine: Any) -> None:
    plugin.create({"connection": server.connection(), "create": "echo out; echo err >&2", "logging": "none"})
    assert engine.texts() == []


@pytest.mark.parametrize("rest", ["", "; echo; echo more"])
def test_with_logging_a_line_over_64_kib_hangs_the_operation(engine: Any, server: Any, rest: str) -> None:
    script = f"head -c {LINE_LIMIT + 1} /dev/zero | tr '\\0' x{rest}"
    with pytest.raises(TimeoutError):
        Plugin(engine, SimpleNamespace(abort=_abort), patience=0.8).create(
            {"connection": server.connection(), "create": script}
        )


def test_without_logging_a_line_over_64_kib_passes(plugin: Plugin, server: Any) -> None:
    script = f"head -c {LINE_LIMIT + 1} /dev/zero | tr '\\0' x"
    outputs = plugin.create({"connection": server.connection(), "create": script, "logging": "none"})
    assert len(outputs["stdout"]) == LINE_LIMIT + 1


def test_with_logging_a_line_of_just_under_64_kib_passes(plugin: Plugin, server: Any) -> None:
    script = f"head -c {LINE_LIMIT - 1} /dev/zero | tr '\\0' x; echo"
    outputs = plugin.create({"connection": server.connection(), "create": script})
    assert len(outputs["stdout"]) == LINE_LIMIT - 1


def test_custom_timeouts_do_not_stop_a_command(plugin: Plugin, server: Any) -> None:
    inputs = values.struct({"connection": server.connection(), "create": "sleep 0.4; echo done"})
    answer = plugin.call("Create", proto.CreateRequest(urn=urn(COMMAND), properties=inputs, timeout=0.1))
    assert values.plain(answer.properties)["stdout"] == "done"


def test_cancelling_waits_for_what_already_runs_on_a_server(engine: Any, server: Any) -> None:
    inputs = values.struct({"connection": server.connection(), "create": "sleep 0.6; echo done"})

    async def scenario() -> Any:
        provider = Command(engine)
        request = proto.CreateRequest(urn=urn(COMMAND), properties=inputs)
        running = asyncio.create_task(provider.Create(request, SimpleNamespace(abort=_abort)))
        await asyncio.sleep(0.3)
        await provider.Cancel(None, None)
        return await running

    assert values.plain(asyncio.run(scenario()).properties)["stdout"] == "done"


# --- the environment ---------------------------------------------------------------------------


def test_a_variable_outside_acceptenv_fails_before_the_script_runs(
    plugin: Plugin, server: Any, engine: Any, tmp_path: Any
) -> None:
    mark = tmp_path / "ran"
    inputs = {"connection": server.connection(), "create": f"touch {mark}", "environment": {"MAIL": "x"}}
    with pytest.raises(RefusedError, match='could not set environment variable "MAIL": ssh: setenv failed'):
        plugin.create(inputs)
    assert not mark.exists()
    assert "via AcceptEnv" in engine.messages[0][1]


def test_a_variable_inside_acceptenv_reaches_the_script(plugin: Plugin, server: Any) -> None:
    inputs = {"connection": server.connection(), "create": "echo $LC_MAIL", "environment": {"LC_MAIL": "granted"}}
    assert plugin.create(inputs)["stdout"] == "granted"


def test_the_previous_output_is_refused_with_a_warning_at_each_update(plugin: Plugin, server: Any, engine: Any) -> None:
    inputs = {"connection": server.connection(), "create": "true"}
    plugin.update(inputs, inputs, stdout="before", stderr="")
    ((severity, text),) = engine.messages
    assert (severity, text.splitlines()[0]) == (
        WARNING,
        "Unable to set 'PULUMI_COMMAND_STDOUT'. This only works if your SSH server is configured to accept",
    )


def test_the_previous_output_is_not_sent_when_it_is_switched_off(plugin: Plugin, server: Any, engine: Any) -> None:
    inputs = {"connection": server.connection(), "create": "true", "addPreviousOutputInEnv": False}
    plugin.update(inputs, inputs, stdout="before", stderr="")
    assert engine.messages == []


# --- dialling -------------------------------------------------------------------------------------


def test_a_wrong_host_key_is_refused(plugin: Plugin, server: Any) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(RefusedError, match=r"after 0 failed attempts: ssh: handshake failed: ssh: host key mismatch"):
        plugin.create({"connection": server.connection(hostKey=other), "create": "true"})


def test_an_rsa_host_key_finds_no_common_algorithm(plugin: Plugin, server: Any) -> None:
    rsa = server.rsa_host_key.export_public_key().decode()
    with pytest.raises(RefusedError, match="ssh: handshake failed: (ssh: no common algorithm|Connection lost)"):
        plugin.create({"connection": server.connection(hostKey=rsa), "create": "true"})


def test_without_a_host_key_any_server_is_trusted(plugin: Plugin, server: Any) -> None:
    assert plugin.create({"connection": server.connection(hostKey=None), "create": "echo in"})["stdout"] == "in"


def test_a_dial_error_limit_of_two_means_three_logins(plugin: Plugin, server: Any, engine: Any) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    connection = server.connection(privateKey=stranger, dialErrorLimit=2)
    with pytest.raises(
        RefusedError, match="after 2 failed attempts: ssh: handshake failed: ssh: unable to authenticate"
    ):
        plugin.create({"connection": connection, "create": "true"})
    assert server.logins == 3
    assert engine.texts() == ["Dial 1/2 failed: retrying", "Dial 2/2 failed: retrying"]


def test_a_closed_port_is_reported_in_the_words_of_go(plugin: Plugin, server: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RefusedError, match=f"dial tcp 127.0.0.1:{port}: connect: connection refused"):
        plugin.create({"connection": server.connection(port=port), "create": "true"})


def test_a_stale_agent_socket_is_an_error_even_with_a_key(plugin: Plugin, server: Any, tmp_path: Any) -> None:
    connection = server.connection(agentSocketPath=str(tmp_path / "gone"))
    with pytest.raises(RefusedError, match="agent"):
        plugin.create({"connection": connection, "create": "true"})


def test_cancelling_ends_dialling(engine: Any, server: Any) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    connection = server.connection(privateKey=stranger, dialErrorLimit=-1)
    request = proto.CreateRequest(urn=urn(COMMAND), properties=values.struct({"connection": connection, "create": ":"}))

    async def scenario() -> Any:
        provider = Command(engine)
        running = asyncio.create_task(provider.Create(request, SimpleNamespace(abort=_abort)))
        await asyncio.sleep(0.3)
        await provider.Cancel(None, None)
        return await asyncio.wait_for(running, 5)

    with pytest.raises(RefusedError, match="context canceled"):
        asyncio.run(scenario())


# --- copies -----------------------------------------------------------------------------------------


def copy_inputs(server: Any, target: Any, text: str = "one", digest: str = "1", **connection: Any) -> dict[str, Any]:
    return {
        "connection": server.connection(**connection),
        "source": text_asset(text, digest),
        "remotePath": str(target),
    }


def test_a_text_is_copied_and_missing_folders_are_made(plugin: Plugin, server: Any, tmp_path: Any) -> None:
    target = tmp_path / "new" / "file"
    plugin.create(copy_inputs(server, target), COPY)
    assert target.read_text() == "one"


def test_a_changed_content_is_copied_again(plugin: Plugin, server: Any, tmp_path: Any) -> None:
    target = tmp_path / "file"
    plugin.update(copy_inputs(server, target), copy_inputs(server, target, "two", "2"), COPY)
    assert target.read_text() == "two"


def test_a_changed_path_is_copied_to(plugin: Plugin, server: Any, tmp_path: Any) -> None:
    plugin.update(copy_inputs(server, tmp_path / "old"), copy_inputs(server, tmp_path / "new"), COPY)
    assert (tmp_path / "new").read_text() == "one"


def test_a_changed_host_copies_nothing(plugin: Plugin, server: Any, tmp_path: Any) -> None:
    target = tmp_path / "file"
    plugin.update(copy_inputs(server, target, host="old.test"), copy_inputs(server, target), COPY)
    assert not target.exists()
    assert server.logins == 0


def test_a_copy_of_something_unknown_fails_the_preview(plugin: Plugin, server: Any) -> None:
    inputs = {"connection": server.connection(), "source": values.UNKNOWN, "remotePath": "/x"}
    (failure,) = plugin.check(inputs, COPY).failures
    assert (failure.property, failure.reason) == ("asset", "either asset or archive must be set")


def test_a_folder_lands_inside_the_target_unless_it_ends_with_a_slash(
    plugin: Plugin, server: Any, tmp_path: Any
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "mail").write_text("x")
    for source, landed in ((f"{tmp_path}/etc", "a/etc/mail"), (f"{tmp_path}/etc/", "b/mail")):
        inputs = {
            "connection": server.connection(),
            "source": {values.SIG: values.ARCHIVE, "path": source, "hash": "1"},
            "remotePath": str(tmp_path / landed[0]),
        }
        plugin.create(inputs, COPY)
        assert (tmp_path / landed).read_text() == "x"


def test_an_archive_of_parts_is_refused(plugin: Plugin, server: Any) -> None:
    source = {values.SIG: values.ARCHIVE, "assets": {}, "hash": "1"}
    inputs = {"connection": server.connection(), "source": source, "remotePath": "/x"}
    assert [failure.property for failure in plugin.check(inputs, COPY).failures] == ["archive"]


# --- commands here ------------------------------------------------------------------------------------


def test_a_local_command_sees_our_environment_and_its_own(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER", "a")
    outputs = plugin.create({"create": "echo $OUTER$INNER", "environment": {"INNER": "b"}}, LOCAL)
    assert outputs["stdout"] == "ab"


def test_a_failing_local_command_names_its_exit_status(plugin: Plugin) -> None:
    with pytest.raises(RefusedError, match='exit status 3: running "exit 3":'):
        plugin.create({"create": "exit 3"}, LOCAL)


def test_cancelling_ends_a_local_command(engine: Any) -> None:
    request = proto.CreateRequest(urn=urn(LOCAL), properties=values.struct({"create": "exec sleep 30"}))

    async def scenario() -> Any:
        provider = Command(engine)
        running = asyncio.create_task(provider.Create(request, SimpleNamespace(abort=_abort)))
        await asyncio.sleep(0.2)
        await provider.Cancel(None, None)
        return await running

    start = time.monotonic()
    with pytest.raises(RefusedError, match="context canceled"):
        asyncio.run(scenario())
    assert time.monotonic() - start < 5


def test_local_run_runs_during_previews_too(plugin: Plugin) -> None:
    args = values.struct({"command": "echo ran"})
    answer = plugin.call("Invoke", proto.InvokeRequest(tok="command:local:run", args=args))
    assert values.plain(getattr(answer, "return"))["stdout"] == "ran"
