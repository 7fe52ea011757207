"""The API over a real socket: right answers, firm refusals, nothing kept, nothing told."""

import asyncio
import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

import psutil
import requests

import browser
import hostile
from dermdistill.bundle import Bundle
from dermdistill.bundle.predict import predict_files
from dermdistill.errors import ConfigError
from dermdistill.serve.decoders import Decoders
from dermdistill.serve.limits import Limits, RefusedError
from dermdistill.serve.run import TOKEN_VARIABLE, find_token

pytestmark = [browser.built, pytest.mark.slow]
TOKEN = "a-token-of-more-than-16"


def post(address, body, path="/v1/predict", **headers):
    return requests.post(address + path, data=body, headers=headers, timeout=60)


def test_predict_answers_as_the_predictor(address, bundle, drawn):
    drawn = drawn[:16]
    expected, doubts = predict_files(bundle, [str(path) for path in drawn])
    answers = zip(drawn, expected.probabilities, *doubts, strict=True)
    for path, row, unsure, unlike in answers:
        found = post(address, path.read_bytes()).json()
        assert list(found["probabilities"].values()) == pytest.approx(list(row), abs=2e-6)
        assert list(found["probabilities"]) == list(expected.classes)
        assert found["first"] == expected.classes[row.argmax()]
        assert (found["not_sure"], found["unlike"]) == (unsure, unlike)
        assert "no medical device" in found["notice"]


def test_a_map_where_it_is_asked_for(address, bundle, drawn):
    manifest = Bundle(bundle).manifest
    found = post(address, drawn[0].read_bytes(), "/v1/predict?map=true").json()
    assert len(found["map"]) == manifest.map_px
    assert post(address, drawn[0].read_bytes()).json()["map"] is None


def test_a_batch_is_streamed_in_order_with_its_errors_in_place(address, drawn):
    data = [base64.b64encode(path.read_bytes()).decode() for path in drawn]
    data[3] = base64.b64encode(b"no image").decode()
    body = json.dumps({"images": [{"id": str(i), "data": one} for i, one in enumerate(data)]})
    answer = post(address, body, "/v1/batch")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in lines] == [str(i) for i in range(len(drawn))]
    assert lines[3]["error"]["code"] == "no_image"
    for place in (0, 4, 11):
        alone = post(address, drawn[place].read_bytes()).json()
        assert lines[place]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_model_health_metrics_and_document(address, bundle, drawn):
    post(address, drawn[0].read_bytes())
    manifest = Bundle(bundle).manifest
    assert requests.get(f"{address}/v1/model").json()["classes"] == manifest.classes
    assert requests.get(f"{address}/healthz").json() == {"status": "ok"}
    text = requests.get(f"{address}/metrics").text
    assert 'dermdistill_requests_total{route="/v1/predict",status="200"}' in text
    document = requests.get(f"{address}/openapi.json").json()
    assert {"/v1/predict", "/v1/batch", "/v1/model", "/healthz"} == set(document["paths"])


def test_every_answer_carries_the_policy_and_isolation(address):
    for path in ("/", "/healthz", "/nowhere", "/v1/predict"):
        headers = requests.get(address + path).headers
        assert "connect-src 'self'" in headers["content-security-policy"]
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert "server" not in headers


def test_only_this_machines_own_pages_are_answered(address, drawn):
    assert requests.get(address, headers={"Host": "evil.example"}).status_code == 403
    body = drawn[0].read_bytes()
    assert post(address, body, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert post(address, body, **{"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_token_where_other_machines_reach_it(bundle, monkeypatch, drawn):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert find_token("127.0.0.1") is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "clinic.example"):
        with pytest.raises(ConfigError, match="needs a token"):
            find_token(host)
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(ConfigError, match="16 or more"):
        find_token("0.0.0.0")
    with browser.server(bundle, **{TOKEN_VARIABLE: TOKEN}) as address:
        assert requests.get(f"{address}/v1/model").status_code == 401
        assert requests.get(f"{address}/metrics").status_code == 401
        assert post(address, b"", Authorization="Bearer wrong").status_code == 401
        assert requests.get(f"{address}/healthz").status_code == 200
        answer = post(address, drawn[0].read_bytes(), Authorization=f"Bearer {TOKEN}")
        assert answer.status_code == 200


def test_bodies_are_bounded_before_and_while_they_arrive(address):
    host, port = urlsplit(address).hostname, urlsplit(address).port
    with socket.create_connection((host, port), timeout=30) as raw:
        raw.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
                    b"Content-Length: 99999999999\r\n\r\nabc")  # fmt: skip
        assert b" 413 " in raw.recv(4096).splitlines()[0]

    def endless():
        for _ in range(200):
            yield b"\0" * 100_000

    assert requests.post(f"{address}/v1/predict", data=endless(), timeout=60).status_code == 413


def test_more_than_it_can_do_is_refused_at_once(address, drawn):
    body, statuses = drawn[0].read_bytes(), []

    def ask():
        statuses.append(post(address, body).status_code)

    threads = [threading.Thread(target=ask) for _ in range(120)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 32
    assert post(address, body).status_code == 200


def test_a_decode_that_would_take_forever_is_refused(address):
    """300 kB that would keep a thread busy for a minute."""
    start = time.monotonic()
    answer = post(address, hostile.scan_bomb())
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "too_many_scans"
    assert time.monotonic() - start < 5
    few = post(address, hostile.scan_bomb(300, 50))
    assert few.status_code == 200


def test_a_slow_decode_is_ended_and_the_next_image_answered(bundle, drawn):
    opened, good = Bundle(bundle), drawn[0].read_bytes()
    spec, limits = opened.manifest.preprocessing, Limits(decode_seconds=0.5)
    slow = hostile.scan_bomb(6000, 80)  # within all other bounds; seconds of a core

    async def ask():
        with closing(Decoders(1, spec, limits)) as decoders:
            before = decoders.all[0].process.pid
            with pytest.raises(RefusedError) as refused:
                await decoders.read(slow)
            return before, refused.value, await decoders.read(good)

    before, refusal, answer = asyncio.run(ask())
    assert (refusal.status, refusal.code) == (422, "slow_image")
    assert (answer == opened.preprocess(good)).all()
    assert not psutil.pid_exists(before)


def test_whoever_waits_too_long_for_a_decoder_is_refused(bundle):
    spec, slow = Bundle(bundle).manifest.preprocessing, hostile.scan_bomb(6000, 80)

    async def ask():
        with closing(Decoders(1, spec, Limits(decode_seconds=0.5))) as decoders:
            bodies = [slow] * 4
            return await asyncio.gather(*map(decoders.read, bodies), return_exceptions=True)

    assert {refusal.status for refusal in asyncio.run(ask())} == {422, 429}


def test_a_decoder_that_was_killed_is_replaced(bundle, drawn):
    with browser.server(bundle) as address:
        body = drawn[0].read_bytes()
        expected = post(address, body).json()
        server = next(one for one in psutil.Process().children() if "serve" in one.cmdline())
        decoders = [one for one in server.children() if "spawn_main" in " ".join(one.cmdline())]
        assert len(decoders) == 2
        for one in decoders:
            one.kill()
            while one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
        for _ in decoders:
            assert post(address, body).json() == expected


def test_slow_headers_are_cut_off(address):
    host, port = urlsplit(address).hostname, urlsplit(address).port
    with socket.create_connection((host, port), timeout=30) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        start = time.monotonic()
        raw.recv(4096)
        assert 5 < time.monotonic() - start < 20


def test_hostile_bodies_never_break_it(bundle, drawn, tmp_path):
    """No crash, no 5xx, no path in an answer, nothing on the disk, and then still right."""
    good = drawn[0].read_bytes()
    bodies = [("/v1/predict", *one) for one in hostile.images(good)]
    bodies += [("/v1/batch", *one) for one in hostile.texts()]
    assert len(bodies) == 500
    with browser.server(bundle, TMPDIR=str(tmp_path)) as address:
        process = next(one for one in psutil.Process().children() if "serve" in one.cmdline())
        expected = post(address, good).json()
        files = beside()
        for path, what, body in bodies:
            answer = post(address, body, path)
            assert answer.status_code < 500, (what, answer.text)
            assert not leaks(answer.text), (what, answer.text)
        for path in PATHS:
            assert raw_get(address, path)[0] in (400, 403, 404), path
        assert raw_get(address, "/", {"X-Huge": "x" * 100_000})[0] in (400, 431)
        assert post(address, good).json() == expected
        family = [process, *process.children(recursive=True)]
        assert sum(one.memory_info().rss for one in family) < 1_500_000_000
        assert list(tmp_path.rglob("*")) == []
        assert files == beside()


def beside() -> dict[Path, float]:
    """When what lies in the server's folder was changed; tools of tests beside this one hide."""
    return {path: path.stat().st_mtime for path in Path.cwd().glob("[!.]*")}


PATHS = ["/../../etc/passwd", 
         "/%2e%2e/%2e%2e/etc/passwd", "/assets/../../etc/passwd", "//etc/passwd",
         "/assets/%00", "/..%5c..%5cwindows", "/static/index.html", "/" + "a" * 8000]  # fmt: skip


def leaks(text: str) -> bool:
    """Whether an answer shows the machine: a path, an object's address, a trace."""
    return any(sign in text for sign in ("/usr", "/tmp", "/home", "/work", " at 0x", "Traceback",
                                         "site-packages", ".py"))  # fmt: skip


def raw_get(address, path, headers=None):
    """A GET whose path no client library tidies up."""
    link = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    link.putrequest("GET", path, skip_host=False)
    for name, value in (headers or {}).items():
        link.putheader(name, value)
    link.endheaders()
    try:
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def test_schemathesis_finds_nothing(address):
    """Every route from its own description: no server error, only documented answers."""
    pytest.importorskip("schemathesis")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json",
               "--checks", "not_a_server_error,status_code_conformance,content_type_conformance",
               "--max-examples", "60", "--seed", "3"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600,
                          env=os.environ | {"NO_COLOR": "1"})  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_the_log_is_json_and_knows_no_image(bundle, drawn):
    command = [sys.executable, "-c", browser.COMMAND, "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    started = json.loads(process.stderr.readline())
    address = f"http://127.0.0.1:{started['port']}"
    post(address, drawn[0].read_bytes(), "/v1/predict?map=true&name=Mueller")
    requests.get(f"{address}/patient/Mueller.jpg")
    process.terminate()
    rest = process.stderr.read()
    assert process.wait(20) in (0, -15)
    process.stderr.close()
    events = [json.loads(line) for line in rest.splitlines()]
    assert [one["event"] for one in events] == ["request", "request", "stopped"]
    assert events[0]["route"] == "/v1/predict"
    assert "Mueller" not in rest
