"""A real engine that breaks under the server: errors in each API's shape, and then answers again."""

from __future__ import annotations

from pathlib import Path

import anthropic
import httpx
import openai
import pytest
import torch
import transformers

from parity.engine.service import MAX_RESTARTS, EngineService
from parity.serve.desk import Desk
from parity.serve.settings import Settings
from tests.engine.test_restart import break_once
from tests.models import tiny
from tests.models.test_dense import SIZES

from .conftest import PATIENCE_S, serving, until
from .scripted import VOCAB_SIZE, ScriptWords

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 12}


@pytest.fixture
def service(tmp_path: Path):
    torch.manual_seed(3)
    tiny.save(transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SIZES | {"vocab_size": VOCAB_SIZE}), tmp_path)
    service = EngineService(tiny.open_engine(tmp_path))
    yield service
    service.close()


def test_clients_see_an_error_and_then_answers(service, openai_at, anthropic_at):
    names = Settings(port=0, names=("tiny",), sampling=(("temperature", 0.0),))
    with serving(Desk(service, ScriptWords(), None, names), closes=False) as url:
        client, other = openai_at(url), anthropic_at(url)
        asks = {
            "chat": lambda: client.chat.completions.create(**CHAT),
            "message": lambda: other.messages.create(**CHAT),
            "response": lambda: client.responses.create(model="tiny", input="x", max_output_tokens=12),
        }
        before = {name: ask() for name, ask in asks.items()}
        kinds = {"chat": openai.InternalServerError, "message": anthropic.InternalServerError, "response": openai.APIError}
        for name, ask in asks.items():
            service.call(lambda: break_once(service._engine, "plan"))
            with pytest.raises(kinds[name], match="plan broke"):
                ask()
            assert httpx.get(f"{url}/ready", timeout=PATIENCE_S).status_code == 200
        assert asks["chat"]().choices[0].message.content == before["chat"].choices[0].message.content
        assert asks["message"]().content == before["message"].content
        assert asks["response"]().output_text == before["response"].output_text
        metrics = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text
        assert f'engine_restarts_total{{model_name="tiny"}} {MAX_RESTARTS}.0' in metrics
        service.call(lambda: break_once(service._engine, "commit"))
        with pytest.raises(openai.APIError, match="commit broke"):
            list(client.chat.completions.create(**CHAT, stream=True))
        until(lambda: httpx.get(f"{url}/ready", timeout=PATIENCE_S).status_code == 503)
        assert httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
        with pytest.raises(openai.InternalServerError, match="stopped"):
            asks["chat"]()
