"""A model without a chat template over HTTP: what needs none is served, conversations are refused by name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from parity import LLM
from parity.core.errors import Unsupported
from parity.serve.command import make_desk
from parity.serve.settings import Settings
from parity.text.chat import Chat
from parity.verify import exact as probes

from .conftest import serving

POOLING = [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
TURNS = [{"role": "user", "content": "abc"}]


@pytest.fixture(params=["base", "embedding"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, LLM]]:
    """(its URL, the model): an integer-valued Qwen3, of which one is made for embeddings."""
    probes.write("qwen3", tmp_path)
    if request.param == "embedding":
        (tmp_path / "modules.json").write_text(json.dumps(POOLING))
    with LLM(tmp_path, stack="cpu:reference:float32", num_pages=32, page_size=2, max_num_seqs=4) as llm:
        settings = Settings(port=0, names=("tiny",), shutdown_timeout_s=1.0)
        chat = Chat.of(llm.tokenizer, llm.info.architecture, plain=True)
        with serving(make_desk(llm.service, chat, settings), closes=False) as url:
            yield url, llm


def test_what_needs_no_template_is_served(server: tuple[str, LLM]) -> None:
    url, llm = server
    with httpx.Client(base_url=url) as client:
        assert 0 <= time.time() - client.get("/v1/models/tiny").json()["created"] < 3600  # its files were just written
        answer = client.post("/v1/completions", json={"model": "tiny", "prompt": "abcd", "max_tokens": 3, "temperature": 0})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["text"] == llm.generate("abcd", llm.params(max_tokens=3, temperature=0))[0].text
        gap = client.post("/v1/completions", json={"model": "tiny", "prompt": "ab", "suffix": "d"})
        assert gap.status_code == 400
        assert "no tokens for filling a gap" in gap.text
        embedded = client.post("/v1/embeddings", json={"model": "tiny", "input": ["abcd"]})
        if llm.info.embeds:
            wanted = llm.embed("abcd")
            wanted /= np.linalg.norm(wanted)  # as they are sent
            np.testing.assert_allclose(embedded.json()["data"][0]["embedding"], wanted, rtol=1e-5, atol=1e-7)
        else:
            assert embedded.status_code == 400
            assert "not made for embeddings" in embedded.text
        for path, body in (
            ("/v1/chat/completions", {"messages": TURNS}),
            ("/v1/responses", {"input": "abc"}),
            ("/v1/messages", {"messages": TURNS, "max_tokens": 3}),
        ):
            refused = client.post(path, json={"model": "tiny", **body})
            assert refused.status_code == 400, (path, refused.text)
            assert "ships no chat template; give one with --chat-template, or send a plain prompt" in refused.text
    with pytest.raises(Unsupported, match="ships no chat template"):
        _ = llm.chat_format
