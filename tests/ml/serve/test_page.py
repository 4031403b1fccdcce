"""The page in headless Chromium: send a mix, ask, hear both together, go on, come back."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import soundfile

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

Wav = Callable[..., bytes]
Noise = Callable[..., np.ndarray]
TIMEOUT_MS = 120_000
"""Only bounds a hang."""
MOST_TRIES = 100
NOISES = "?corpus=noises&song=song+0&in=noises&own=1&k=6"
"""A mix of noises and only noises to find, the same song's too: each sample says where it is."""


@pytest.fixture
def open_page(browser: Browser, live_url: str) -> Iterator[Callable[..., Page]]:
    """Opens the page; fails when it wrote an error to the console."""
    contexts, errors = [], []

    def listen(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(message.text)

    def open_(query: str = "", *, width: int = 1280, height: int = 900, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", listen)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(live_url + query)
        page.locator("#health:not(:empty)").wait_for()
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def mix_file(tmp_path: Path, make_noise: Noise, make_wav: Wav) -> Path:
    path = tmp_path / "my mix.wav"
    path.write_bytes(make_wav(make_noise(77, 5.0)))
    return path


def send(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)
    page.locator(".card[data-key]").first.wait_for()


def wait_until_playing(page: Page) -> None:
    page.locator("#dock[data-state=playing]").wait_for()


def in_sync(page: Page, live_url: str) -> dict[str, float]:
    """Where mix and stem are, in s of their own time, by what is heard.

    What was played last is searched for in the files: noise is nowhere like itself. It is tried
    again while a repetition or the pace of a busy machine falls into the measurement; what is never
    within 30 ms of the clocks fails.
    """
    seen: list[str] = []
    for _ in range(MOST_TRIES):
        page.wait_for_timeout(50)
        found = page.evaluate(
            """() => { const s = player.scope();
            return {...s, mix: [...s.mix.slice(-2048)], stem: [...s.stem.slice(-2048)],
                    urls: [player.lanes.mix.sound.url, player.lanes.stem.sound.url]}; }"""
        )
        heard = {
            name: _end_of(np.array(found[name]), live_url.rstrip("/") + url, found["rate_hz"])
            for name, url in zip(("mix", "stem"), found["urls"], strict=True)
        }
        if all(abs(heard[name] - found[f"{name}_s"]) < 0.03 for name in heard):
            return {**heard, "context": found["context_s"]}
        seen.append(f"heard {heard}, clocks {found['mix_s']}, {found['stem_s']}")
    raise AssertionError(f"never in sync: {seen}")


def _end_of(piece: np.ndarray, url: str, rate_hz: int) -> float:
    """Where in a file a piece of it ends, in s; nan: nowhere."""
    audio, file_hz = soundfile.read(_fetched(url), always_2d=True)
    assert file_hz == rate_hz
    mono = audio.mean(axis=1)
    size = 2 ** int(np.ceil(np.log2(len(mono) + len(piece))))
    product = np.fft.rfft(mono, size) * np.conj(np.fft.rfft(piece, size))
    start = int(np.fft.irfft(product, size)[: len(mono) - len(piece)].argmax())
    there = mono[start : start + len(piece)]
    match = piece @ there / (np.linalg.norm(piece) * np.linalg.norm(there) + 1e-9)
    return (start + len(piece)) / rate_hz if match > 0.9 else float("nan")


def _fetched(url: str) -> io.BytesIO:
    return io.BytesIO(httpx.get(url, timeout=TIMEOUT_MS / 1000).content)


def test_send_ask_and_hear_both(open_page: Any, live_url: str, mix_file: Path) -> None:
    page = open_page("?in=noises&own=1")
    send(page, mix_file)
    assert page.locator("#mix-name").text_content() == "my mix.wav"
    page.fill("#instrument", "bass guitar")
    page.click("#search")
    page.locator("#status", has_text="bass guitar").wait_for()
    assert page.locator(".card").count() == 6
    assert "instrument=bass+guitar" in page.url
    page.locator(".card .play").nth(1).click()
    wait_until_playing(page)
    page.click("#loop")  # the sounds are short: go round until it was measured
    page.locator("#loop[aria-pressed=true]").wait_for()
    first, second = in_sync(page, live_url), in_sync(page, live_url)
    assert second["context"] > first["context"]
    assert second["mix"] != first["mix"]
    loop_s = page.evaluate("player.region.lengthS")
    apart = (second["stem"] - second["mix"] - first["stem"] + first["mix"]) % loop_s
    assert min(apart, loop_s - apart) < 0.03


def test_the_next_stem_comes_in_while_the_mix_goes_on(open_page: Any, live_url: str) -> None:
    page = open_page(NOISES)
    page.locator(".card[data-key]").first.wait_for()
    page.locator(".card .play").first.click()
    wait_until_playing(page)
    page.keyboard.press("l")
    first = page.locator(".card.chosen").get_attribute("data-key")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("n")
    page.locator(f".card.chosen:not([data-key='{first}'])").wait_for()
    page.locator(".card.chosen[data-state=playing]").wait_for()
    in_sync(page, live_url)
    page.keyboard.press("p")
    page.locator(f".card.chosen[data-key='{first}']").wait_for()
    page.locator("#dock[data-state=playing]").wait_for()
    page.keyboard.press(" ")
    page.locator("#dock[data-state=idle]").wait_for()
    stopped = page.evaluate("player.clocks()")
    assert not stopped["is_playing"]
    page.keyboard.press("ArrowRight")
    assert page.evaluate("player.clocks()")["mix_s"] != stopped["mix_s"]


def test_gain_mute_and_solo_are_heard(open_page: Any) -> None:
    page = open_page(NOISES)
    page.locator(".card[data-key]").first.wait_for()
    page.locator(".card .play").first.click()
    wait_until_playing(page)
    lane = page.locator(".mix-lane")
    mute, solo = lane.locator("[data-mute]"), page.locator(".stem-lane [data-solo]")
    mute.click()
    assert mute.get_attribute("aria-pressed") == "true"
    assert page.evaluate("player.lanes.mix.isMuted")
    mute.click()
    solo.click()
    assert page.evaluate("[player.lanes.stem.isSolo, player.lanes.mix.isMuted]") == [True, False]
    lane.locator("input").fill("-12")
    assert lane.locator("output").text_content() == "−12 dB"
    assert page.evaluate("player.lanes.mix.db") == -12


def test_a_stem_is_brought_to_the_mix_and_its_excerpt_kept(open_page: Any, live_url: str) -> None:
    page = open_page("?corpus=demo&song=heldout-000&in=demo&bpm=88..120&k=6", height=720)
    page.locator(".card[data-key]").first.wait_for()
    page.locator(".card .play").first.click()
    wait_until_playing(page)
    chosen = f"{quote(page.locator('.card.chosen').get_attribute('data-key'), safe='')}/fit?"
    for button, asked in (("#fit", "to_key=false"), ("#fit-key", "to_tempo=true&to_key=true")):
        with page.expect_response(re.compile(f"{re.escape(chosen)}.*{asked}")) as answered:
            page.click(button)
        fit = answered.value.json()
        page.wait_for_function("url => player.lanes.stem.sound?.url === url", arg=fit["audio"])
    assert 3 / 4 < fit["speed"] < 1
    assert f"{fit['speed']:.2f} × as fast" in page.locator("#now-fit").text_content()
    is_whole = "x => x.scrollHeight <= x.clientHeight && x.scrollWidth <= x.clientWidth"
    assert page.locator(".now-more").evaluate(is_whole)
    with page.expect_download() as kept:
        page.click("#excerpt")
    excerpt = _fetched(live_url.rstrip("/") + fit["excerpt"]).read()
    assert kept.value.path().read_bytes() == excerpt
    assert f"speed={fit['speed']}" in fit["excerpt"]


def test_filters_and_the_address_that_keeps_them(open_page: Any, mix_file: Path) -> None:
    page = open_page()
    send(page, mix_file)
    page.click("#filters summary")
    page.locator("#corpora .chip", has_text="noises").click()
    page.locator("#status", has_text="6,").wait_for()
    page.locator("#categories .chip", has_text="bass").click()
    page.locator("#status", has_text="2,").wait_for()
    labels = page.locator(".card .label").all_text_contents()
    assert labels == ["bass guitar", "bass guitar"]
    page.locator(".card .play").nth(1).click()
    chosen = page.locator(".card.chosen").get_attribute("data-key")
    wait_until_playing(page)
    address = page.url
    page.reload()
    page.locator(".card.chosen").wait_for()
    assert page.url == address
    assert page.locator("#mix-name").text_content() == "my mix.wav"
    assert page.locator(".card.chosen").get_attribute("data-key") == chosen
    assert page.locator(".card").count() == 2
    page.go_back()
    page.locator("#status", has_text="6,").wait_for()
    assert page.locator("#categories .chip[aria-pressed=true]").count() == 0


def test_a_song_without_one_of_its_stems(open_page: Any) -> None:
    page = open_page()
    page.locator("[data-open-picker] >> visible=true").click()
    page.fill("#picker-text", "song 1")
    page.locator("#picker-status", has_text="1 song").wait_for()
    page.locator(".picker-row").click()
    page.locator(".card[data-key]").first.wait_for()
    page.locator(".stem-chip", has_text="bass guitar").click()
    page.locator("#status", has_text="for “bass guitar”").wait_for()  # what was taken out
    assert page.locator(".stem-chip[aria-pressed=false]").all_text_contents() == ["bass guitar"]
    assert "song=song+1" in page.url
    assert "out=" in page.url
    page.locator(".card .like-this").first.click()
    page.locator("#like").wait_for()
    page.locator(".card[data-key]").first.wait_for()
    assert "like=" in page.url


def test_problems_are_said_in_the_servers_words(open_page: Any, tmp_path: Path) -> None:
    page = open_page("?mix=000000000000000000000000")
    page.locator("#problem", has_text="send it again").wait_for()
    (tmp_path / "notes.wav").write_text("words, no sound")
    page.set_input_files("#file", tmp_path / "notes.wav")
    page.locator("#problem", has_text="notes.wav cannot be decoded").wait_for()
    with (tmp_path / "large.wav").open("wb") as file:
        file.truncate(9_000_000)
    page.set_input_files("#file", tmp_path / "large.wav")
    page.locator("#problem", has_text="expected at most 8,000,000").wait_for()
    page.click("#filters summary")
    page.fill("#instrument", "bass")
    page.fill("#where", "label lik 'x'")
    page.keyboard.press("Enter")
    page.locator("#problem", has_text="is not understood").wait_for()
    page.fill("#where", "1 = 0")
    page.keyboard.press("Enter")
    page.locator("#status", has_text="None passes the filters").wait_for()
    assert page.locator("#problem").is_hidden()


def test_results_are_seen_in_a_low_window(open_page: Any) -> None:
    page = open_page("?corpus=noises&song=song+0&instrument=xyzzy&in=noises", height=720)
    page.locator(".card.chosen").first.wait_for()
    page.locator("#status", has_text="guesses").wait_for()
    bottom = page.locator(".card").first.evaluate("e => e.getBoundingClientRect().bottom")
    assert bottom <= page.locator("#dock").evaluate("e => e.getBoundingClientRect().top")
    page.fill("#instrument", "Piano")
    page.click("#search")
    page.locator("#offers .chip", has_text="piano stems").click()
    page.locator("#status", has_text="1 for “Piano”").wait_for()
    page.locator("#offers .chip", has_text="show all").click()
    page.locator("#status", has_text="3 for “Piano”").wait_for()


def test_on_a_phone_in_the_dark(open_page: Any, mix_file: Path, tmp_path: Path) -> None:
    page = open_page(width=390, height=844, color_scheme="dark", has_touch=True, is_mobile=True)
    send(page, mix_file)
    page.locator(".card .play").first.tap()
    wait_until_playing(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing sticks out
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, ground[4:-1].split(","))) < 64
    for name in ("#toggle", "#next", "#search", ".card .play"):
        box = page.locator(name).first.bounding_box()
        assert min(box["width"], box["height"]) >= 44, name
    page.screenshot(path=tmp_path / "phone.png")
    assert (tmp_path / "phone.png").stat().st_size > 20_000


def test_everything_can_be_reached_by_keyboard(open_page: Any) -> None:
    page = open_page(NOISES)
    page.locator(".card[data-key]").first.wait_for()
    seen, unnamed = set(), []
    for _ in range(120):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => { const e = document.activeElement;
            const own = e.getAttribute("aria-label") ?? e.textContent.trim();
            const label = own || e.labels?.[0]?.textContent.trim() || "";
            const ring = getComputedStyle(e.id === "file" ? e.nextElementSibling : e).outlineStyle;
            return [e.tagName, e.id, label, ring]; }"""
        )
        if at[0] == "BODY":
            break
        seen.add(at[1] or at[2])
        if not at[2] or at[3] == "none":
            unnamed.append(at)
    assert {"instrument", "k", "search", "toggle", "next", "previous", "loop", "duet"} <= seen
    assert any(name.startswith("Play drum kit") for name in seen)
    assert any(name.startswith("Gain of the stem") for name in seen)
    assert unnamed == []
