"""The Chat tab: talk to a language model; what was said stays in the browser."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.conversation import Conversation, Manner, Message, checked
from app.ui.parts import QUIET, Page, this_page

if TYPE_CHECKING:
    from app.llm_host import Loaded
    from app.studio import Studio
    from mix.llm.engine import Stream

LOOK_SECONDS = 0.08  # how often an answer is looked at
KEPT = "chat"  # under which name the browser keeps what was said
MOST_KEPT = 400_000  # characters; a browser keeps a few megabytes in all


def build(studio: "Studio", ui: Page) -> None:
    """What was said, the line to write in, and how answers are made."""
    chat = Chat(studio, ui)
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=340):
            chat.build_talk()
        with gr.Column(scale=3, min_width=280):
            chat.build_manner()
    chat.wire()


class Chat:
    """The tab's components, and what happens between them."""

    talk: Any
    words: Any
    send: Any
    stop: Any
    anew: Any
    status: Any
    model: Any

    def __init__(self, studio: "Studio", ui: Page) -> None:
        self.studio, self.ui = studio, ui
        self.answering: dict[str, Stream] = {}  # of each page that waits for one
        self.fields: dict[str, Any] = {}

    # --- components ---

    def build_talk(self) -> None:
        t = self.ui.t
        self.talk = gr.Chatbot(
            height="62vh",
            show_label=False,
            label=t("Conversation"),
            elem_id="chat_talk",
            editable="user",
            buttons=["copy", "copy_all"],
            feedback_options=None,
            placeholder=t("Ask something. The model runs on this machine; nothing is sent anywhere."),
            layout="bubble",
        )
        self.status = gr.HTML("", elem_id="chat_status")
        with gr.Row(elem_classes="ms-row-tight"):
            self.words = gr.Textbox(
                label=t("Message"),
                show_label=False,
                placeholder=t("Write here; Enter sends, Shift+Enter begins a new line"),
                lines=1,
                max_lines=8,
                max_length=100_000,
                scale=8,
                elem_id="chat_words",
            )
            self.send = gr.Button(t("Send"), variant="primary", scale=1, min_width=80, elem_id="chat_send")
            self.stop = gr.Button(t("Stop"), scale=1, min_width=80, elem_id="chat_stop", elem_classes="ms-stop")
        with gr.Row(elem_classes="ms-row-tight"):
            self.anew = gr.Button(t("New conversation"), size="sm", elem_id="chat_new", elem_classes="ms-tiny")

    def build_manner(self) -> None:
        t, fields, usual = self.ui.t, self.fields, Manner()
        with gr.Column(elem_classes="ms-card"):
            self.model = fields["model"] = gr.Dropdown(
                self._names(), value=self._first(), label=t("Language model"), elem_id="chat_model",
                allow_custom_value=True,
            )  # fmt: skip
            self.hint = gr.Markdown(
                t("There is no language model yet. Get a small one with `python launch.py models add smollm2`, or put "
                  "a .gguf file or a Hugging Face folder into `models/LLM`."),
                visible=not self._names(), elem_id="chat_hint",
            )  # fmt: skip
            fields["system"] = gr.Textbox(
                label=t("System prompt"), info=t("What the model is told before the conversation"), lines=3,
                max_length=100_000, elem_id="chat_system",
            )  # fmt: skip
            with gr.Accordion(t("How it answers"), open=False, elem_classes="ms-fold", elem_id="chat_manner"):
                fields["temperature"] = gr.Slider(
                    0, 2, usual.temperature, step=0.05, label=t("Temperature"),
                    info=t("0: always the likeliest word"),
                )  # fmt: skip
                fields["top_p"] = gr.Slider(0, 1, usual.top_p, step=0.01, label="Top-p")
                fields["top_k"] = gr.Slider(0, 200, usual.top_k, step=1, label="Top-k", info=t("0: no limit"))
                fields["min_p"] = gr.Slider(0, 1, usual.min_p, step=0.01, label="Min-p")
                fields["repetition_penalty"] = gr.Slider(
                    0.5, 2, usual.repetition_penalty, step=0.01, label=t("Repetition penalty")
                )
                fields["max_tokens"] = gr.Slider(
                    16, 4096, usual.max_tokens, step=16, label=t("Longest answer"), info=t("In tokens")
                )
                fields["seed"] = gr.Number(
                    -1, label=t("Seed"), info=t("-1 is a new one each time"), precision=0, minimum=-1,
                    maximum=2**32 - 1,
                )  # fmt: skip

        for name, part in fields.items():
            part.elem_id = part.elem_id or f"chat_{name}"

    def _names(self) -> list[str]:
        return list(self.studio.llms.models())

    def _first(self) -> str | None:
        try:
            return self.studio.llms.default()
        except KeyError:
            return None

    # --- what happens ---

    def wire(self) -> None:
        kept = gr.Textbox(visible="hidden", elem_id="chat_kept", label=self.ui.t("Conversation"))
        manner = list(self.fields.values())
        outputs = [self.talk, self.words, self.status, kept]
        said: dict[str, Any] = {**QUIET, "concurrency_limit": None}
        gr.on([self.send.click, self.words.submit], self._asked, [self.words, self.talk, *manner], outputs, **said)
        self.talk.retry(self._again, [self.talk, *manner], outputs, **said)
        self.talk.edit(self._edited, [self.talk, *manner], outputs, **said)
        self.talk.undo(self._undone, [self.talk], outputs, queue=False, **QUIET)
        self.talk.clear(self._begin_anew, None, outputs, queue=False, **QUIET)
        self.anew.click(self._begin_anew, None, outputs, queue=False, **QUIET)
        self.stop.click(self._stopped, None, None, queue=False, **QUIET)
        self.model.focus(self._look, [self.model], [self.model, self.hint], queue=False, **QUIET)
        self.ui.remember("chat", self.fields)
        keep = f"(told) => {{ window.mix.set('{KEPT}', told); return []; }}"
        kept.change(None, [kept], [], js=keep, **QUIET)
        recall = f"async () => [await window.mixReady().then(m => m.get('{KEPT}'))]"
        this_page().load(restored, [kept], [self.talk], js=recall, queue=False, **QUIET)
        this_page().load(self._look, [self.model], [self.model, self.hint], queue=False, **QUIET)

    def _look(self, chosen: str | None) -> tuple[Any, Any]:
        """Models that have come or gone since the page was made."""
        names = self._names()
        known = chosen if chosen in names else self._first()
        return gr.update(choices=[(n, n) for n in names], value=known), gr.update(visible=not names)

    async def _asked(self, request: gr.Request, text: str, talk: Any, *manner: Any) -> AsyncIterator[Any]:
        if not (text or "").strip():
            yield (gr.skip(),) * 4
            return
        messages = [*plain(talk), {"role": "user", "content": text.strip()}]
        async for update in self._answer(messages, manner, request):
            yield update

    async def _again(self, event: gr.RetryData, request: gr.Request, talk: Any, *manner: Any) -> AsyncIterator[Any]:
        async for update in self._answer(upto(plain(talk), event.index), manner, request):
            yield update

    async def _edited(self, event: gr.EditData, request: gr.Request, talk: Any, *manner: Any) -> AsyncIterator[Any]:
        messages = upto(plain(talk), event.index)
        if messages:
            messages[-1] = {"role": "user", "content": words_of(event.value)}
        async for update in self._answer(messages, manner, request):
            yield update

    def _undone(self, event: gr.UndoData, talk: Any) -> tuple[Any, ...]:
        """The last question goes back into the line."""
        messages = upto(plain(talk), event.index)
        return messages[:-1], messages[-1]["content"] if messages else "", "", kept_of(messages[:-1])

    def _begin_anew(self, request: gr.Request) -> tuple[Any, ...]:
        self._stopped(request)
        return [], gr.skip(), "", kept_of([])

    def _stopped(self, request: gr.Request) -> None:
        stream = self.answering.get(str(request.session_hash))
        if stream is not None:
            stream.close()

    async def _answer(
        self, messages: list[Message], manner: Sequence[Any], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Answer the last message, which is the user's; (conversation, line, status, what the browser keeps)."""
        if not messages:
            yield (gr.skip(),) * 4
            return
        values, say = dict(zip(self.fields, manner, strict=True)), self.ui.say
        yield messages, "", note(say("Reading the model …", request)), kept_of(messages)
        try:
            loaded = await asyncio.to_thread(self.studio.llms.get, values["model"] or "")
            conversation = Conversation(values["system"] or "", list(messages))
            stream = await asyncio.to_thread(conversation.answer, loaded, manner_of(values))
        except (ValueError, KeyError, RuntimeError) as why:
            told = str(why.args[0]) if isinstance(why, KeyError) else str(why)
            yield messages[:-1], messages[-1]["content"], note(told, bad=True), kept_of(messages[:-1])
            return
        self._stopped(request)  # a page gets one answer at a time
        self.answering[str(request.session_hash)] = stream
        try:
            async for update in self._follow(stream, loaded, conversation, request):
                yield update
        finally:
            stream.close()
            if self.answering.get(str(request.session_hash)) is stream:
                del self.answering[str(request.session_hash)]

    async def _follow(
        self, stream: "Stream", loaded: "Loaded", conversation: Conversation, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        from mix.llm.engine import Ended

        before, text, loop = conversation.messages, "", asyncio.get_running_loop()
        began, end = loop.time(), None
        while end is None:
            await asyncio.sleep(LOOK_SECONDS)
            new = stream.take()
            text += "".join(event.text for event in new)
            end = next((event for event in new if isinstance(event, Ended)), None)
            if new:
                yield [*before, {"role": "assistant", "content": text}], gr.skip(), "", gr.skip()
        after = [*before, {"role": "assistant", "content": text}] if text else list(before)
        if end.error is not None:
            yield after, gr.skip(), note(str(end.error), bad=True), kept_of(after)
            return
        n, seconds = end.usage.completion, loop.time() - began
        told = self.ui.say("{n} tokens in {s} s with {model}", request, n=n, s=f"{seconds:.1f}", model=loaded.name)
        if conversation.left_out:
            told += self.ui.say("; the first {n} messages have no room any more", request, n=conversation.left_out)
        yield after, gr.skip(), note(told), kept_of(after)


# --- plain values ----------------------------------------------------------------------------------------------------


def words_of(content: Any) -> str:
    """The text of a message's content, which may be a list of parts."""
    if isinstance(content, Mapping):
        return str(content.get("text") or "")
    return "".join(map(words_of, content)) if isinstance(content, list) else str(content or "")


def plain(talk: Any) -> list[Message]:
    """What the page shows, as messages."""
    return [{"role": str(m["role"]), "content": words_of(m["content"])} for m in talk or []]


def upto(messages: list[Message], index: Any) -> list[Message]:
    """The conversation up to and with the user's message at `index`, or the last one before it."""
    at = index[0] if isinstance(index, list | tuple) else index
    at = min(int(at), len(messages) - 1)
    while at >= 0 and messages[at]["role"] != "user":
        at -= 1
    return messages[: at + 1]


def kept_of(messages: list[Message]) -> str:
    """What the browser keeps, as JSON: the end of a very long conversation."""
    size, kept = 0, []
    for message in reversed(messages):
        size += len(message["content"])
        if size > MOST_KEPT:
            break
        kept.append(message)
    return json.dumps(kept[::-1], ensure_ascii=False)


def restored(told: str | None) -> list[Message]:
    """What the browser kept; nothing when it is not a conversation."""
    try:
        return checked(json.loads(told or "[]"))
    except (ValueError, TypeError, KeyError):
        return []


def manner_of(values: Mapping[str, Any]) -> Manner:
    """The form's values. ValueError says what is wrong."""
    whole = {name: None if values[name] is None else int(values[name]) for name in ("top_k", "max_tokens", "seed")}
    told = {**values, **whole, "seed": None if whole["seed"] in (None, -1) else whole["seed"]}
    return Manner().with_values(told)


def note(text: str, bad: bool = False) -> str:
    """A line below the conversation."""
    return f'<div class="ms-status{" ms-failed" if bad else ""}">{escape(text)}</div>' if text else ""
