"""Style templates: what goes around the user's prompt and before the user's negative prompt (instantid.md §A5)."""

import json
from pathlib import Path

TEMPLATES: dict[str, dict[str, str]] = {
    style["name"]: style for style in json.loads(Path(__file__).with_name("styles.json").read_text("utf-8"))
}


def apply_style(style: str, prompt: str, negative_prompt: str) -> tuple[str, str]:
    """The prompt and negative prompt in this style. Raises KeyError for a style that does not exist."""
    template = TEMPLATES[style]
    positive = template["prompt"].replace("{prompt}", prompt)
    return positive, f"{template['negative_prompt']} {negative_prompt}"
