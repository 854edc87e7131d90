"""``course zoo``: what ships, in short, and the card of one model."""

from course.authoring import zoo
from helpers.zoo import folder, names, read_card


def test_every_model_is_listed_with_size_loss_skill_and_maker(capsys):
    assert zoo.main([]) == 0
    said = capsys.readouterr().out
    for name in names():
        card = read_card(folder(name))
        assert name in said
        assert f"{card['loss']['value']:.3f} {card['loss']['what']}" in said
        assert card["can"] in said
        assert f"made {card['date']} on {card['machine']['name']}" in said
    assert f"{len(names())} models" in said


def test_a_name_gives_its_card_and_a_wrong_one_a_line(capsys):
    assert zoo.main(["tiny-qwen3"]) == 0
    assert capsys.readouterr().out.strip() == (folder("tiny-qwen3") / "README.md").read_text(encoding="utf-8").strip()
    assert zoo.main(["tiny-gpt"]) == 2
    assert "the zoo has no model 'tiny-gpt'; it has tiny-" in capsys.readouterr().out
