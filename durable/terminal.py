"""What is printed: text from outside stays text, whatever is in it."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from durable.addresses import hidden


def plain(text: str) -> str:
    """Text with whatever a terminal would obey, or not show, as an escape; only ends of lines stay."""
    if text.isprintable():
        return text
    return "".join(
        each if each == "\n" or each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )


def say(console: Console, sentence: str) -> None:
    """Prints a sentence without colours of rich's own; only the terminal breaks its line."""
    console.print(sentence, highlight=False, soft_wrap=True)


class Terminal(Console):
    """A console that takes no style from text, and sends a terminal nothing that it would obey."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, **settings)

    def status(self, status: RenderableType, **settings: Any) -> Status:
        """A line that says what goes on; `update` takes text, and is given `Text`."""
        return super().status(Text(status) if isinstance(status, str) else status, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Text of a string, before anybody looks how long it is."""
        return super().render_str(plain(hidden(text)), **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments of something that is to be printed; rich's own control of the cursor stays."""
        for segment in super().render(renderable, options):
            text = plain(hidden(segment.text))
            yield segment if segment.control else segment._replace(text=text)
