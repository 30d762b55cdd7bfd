"""One button: take a photograph, and read what it shows."""
from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import toga

from seeing.classify import classify


class Seeing(toga.App):
    def startup(self) -> None:
        self.answer = toga.Label("")
        button = toga.Button("Take a photograph", on_press=self.look)
        self.main_window = toga.MainWindow(title=self.formal_name)
        self.main_window.content = toga.Box(children=[button, self.answer], direction="column")
        self.main_window.show()

    async def look(self, widget: toga.Widget) -> None:
        photograph = await self.camera.take_photo()
        if photograph is None:
            return
        with TemporaryDirectory() as folder:
            picture = Path(folder) / "photograph.png"
            photograph.save(picture)
            self.answer.text = "\n".join(await asyncio.to_thread(classify, picture))


def main() -> Seeing:
    return Seeing()
