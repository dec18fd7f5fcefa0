"""The notebooks with sliders, in JupyterLab and a real browser; and the same checks on notebooks that must fail."""

import os
from pathlib import Path

import pytest
from lab import Lab, missing, wait_until

from backprop_lib.gradient_widgets import clipping_widget, depth_widget, memory_widget
from backprop_lib.widgets import START, convolution_widget, network_widget, recurrent_widget


NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WIDGETS = {                                                     # notebook: classes of the boxes with sliders
    "01_mlp.ipynb": [".bp-widget"], "02_cnn.ipynb": [".bp-widget"], "03_rnn.ipynb": [".bp-widget"],
    "05_vanishing_gradients.ipynb": [".bp-memory", ".bp-clipping"], "05b_initialisation.ipynb": [".bp-depth"],
}
SLIDER, PICTURE = ".bp-widget .noUi-handle", ".bp-widget img"
WIDGET = ("code", "from backprop_lib.widgets import network_widget\n\nnetwork = network_widget()\nnetwork")
CONVOLUTION = ("code", "from backprop_lib.widgets import convolution_widget\n\nconvolution_widget()")
GRADIENTS = ("code", "from backprop_lib.gradient_widgets import clipping_widget, depth_widget, memory_widget")
UNIT = ("code", "from backprop_lib.widgets import recurrent_widget\n\nrecurrent_widget()")
FORMULA = ("markdown", "A sigmoid:\n\n$$ h = \\frac{1}{1 + e^{-z}} \\tag{MLP-7} $$\n\nand `$$` in code.")
FROZEN = """import io
import ipywidgets
from PIL import Image
png = io.BytesIO()
Image.new("RGB", (8, 8), "white").save(png, "png")
picture = ipywidgets.Image(value=png.getvalue())
slider = ipywidgets.IntSlider()
slider.observe(lambda change: picture.send_state("value"), "value")
ipywidgets.VBox([picture, slider]).add_class("bp-widget")"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    reason = missing()
    if reason and os.environ.get("BACKPROP_REQUIRE_BROWSER") == "1":
        pytest.fail(f"BACKPROP_REQUIRE_BROWSER=1, but {reason}")
    if reason:
        pytest.skip(reason)
    with Lab(NOTEBOOKS, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.mark.parametrize("notebook", WIDGETS)
def test_sliders_of_a_notebook_move_its_pictures(lab, notebook):
    """Only the imports and the widgets run here, for nbval runs all cells; the rest is shown as it is stored."""
    with lab.open(notebook) as page:
        assert page.run("_widget()") == 1 + len(WIDGETS[notebook])
        page.check_math()
        for box in WIDGETS[notebook]:
            page.move_slider(f"{box} .noUi-handle", f"{box} img")


def test_sliders_and_buttons_of_the_network(lab):
    """The first and the last slider move the picture; both buttons leave the picture they leave without a browser."""
    start, moved, stepped = network_widget(), network_widget(), network_widget()
    moved.sliders["W1[0,0]"].value, moved.sliders["b2[1]"].value = 0.19, 0.64
    stepped.step.click()
    lab.write("widget.ipynb", [FORMULA, WIDGET])
    with lab.open("widget.ipynb") as page:
        page.run()
        assert page.check_math() == 1
        page.expect_picture(PICTURE, start.picture.value)
        page.screenshot("before")
        assert page.page.locator(SLIDER).count() == len(start.sliders) == 12
        page.move_slider(SLIDER, PICTURE)
        page.move_slider(f":nth-match({SLIDER}, 12)", PICTURE)
        page.expect_picture(PICTURE, moved.picture.value)       # all that the sliders send has come before reset does
        page.screenshot("after")
        step, reset = page.page.locator(".bp-widget button").all()
        reset.click()
        page.expect_picture(PICTURE, start.picture.value)
        step.click()
        page.expect_picture(PICTURE, stepped.picture.value)
        page.page.wait_for_timeout(500)                         # the sliders must not send rounded values back
        page.expect_picture(PICTURE, stepped.picture.value)
        page.screenshot("step")


def test_sliders_and_button_of_the_convolution(lab):
    """Places follow the options; what the browser shows in the end is what the same moves give without a browser."""
    twin, names = convolution_widget(), ["output row", "output column", "pixel row", "pixel column", *list(START)[:3]]
    lab.write("convolution.ipynb", [CONVOLUTION])
    with lab.open("convolution.ipynb") as page:
        def expect_twin():
            page.expect_picture(PICTURE, twin.picture.value)
            readouts = [str(twin.sliders[name].value) for name in names]
            wait_until(lambda: page.page.locator(".bp-widget .widget-readout").all_text_contents() == readouts,
                       f"the sliders do not show {readouts}", timeout=30)

        page.run()
        expect_twin()
        page.screenshot("before")
        for name in ("output row", "stride", "padding", "output column", "dilation"):
            page.page.locator(SLIDER).nth(names.index(name)).focus()
            for _ in range(6):                                  # further than the range goes
                page.page.keyboard.press("ArrowRight")
            twin.sliders[name].value = twin.sliders[name].max
            expect_twin()
        page.screenshot("after")
        page.page.locator(".bp-widget button").click()
        twin.reset.click()
        expect_twin()
        page.check_page()


def test_controls_and_button_of_the_unit_through_time(lab):
    """The slider of the forget gate comes with the LSTM; every picture is the one that the same moves give here."""
    twin = recurrent_widget()
    lab.write("unit.ipynb", [UNIT])
    with lab.open("unit.ipynb") as page:
        handles = page.page.locator(SLIDER)
        page.run()
        page.expect_picture(PICTURE, twin.picture.value)
        page.screenshot("before")
        assert handles.count() == 5 and not handles.last.is_visible()
        page.page.locator(".bp-widget select").select_option("LSTM")
        twin.controls["unit"].value = "LSTM"
        page.expect_picture(PICTURE, twin.picture.value)
        for number, name, value in ((4, "forget bias", 1.3), (0, "w", 0.65), (3, "T", 23)):
            handles.nth(number).focus()
            for _ in range(3):
                page.page.keyboard.press("ArrowRight")
            twin.controls[name].value = value
            page.expect_picture(PICTURE, twin.picture.value)
        page.screenshot("after")
        page.page.locator(".bp-widget button").click()
        twin.reset.click()
        page.expect_picture(PICTURE, twin.picture.value)
        handles.last.wait_for(state="hidden")
        page.check_page()


def test_controls_and_buttons_of_the_gradients(lab):
    """All three in one notebook: each control moves its own picture, and every picture is the one it is here."""
    twins = {"depth": depth_widget(), "memory": memory_widget(), "clipping": clipping_widget()}
    choices = {"depth": {"activation": "sigmoid", "weights": "He", "cure": "residual"},
               "memory": {"W_hh": "orthogonal"}, "clipping": {}}
    moves = {"depth": {"depth": (0, 23)}, "memory": {"radius": (0, 0.65), "forget bias": (1, 3.3), "T": (2, 53)},
             "clipping": {"learning rate": (0, 0.65), "threshold": (1, 5.0), "steps": (2, 33), "w": (3, 4.95),
                          "b": (4, -1.85)}}
    start = {name: twin.picture.value for name, twin in twins.items()}
    shown = dict(start)                                         # a picture changes with its own controls only
    lab.write("gradients.ipynb", [GRADIENTS, *(("code", f"{name}_widget()") for name in twins)])
    with lab.open("gradients.ipynb") as page:
        def expect(name, png):
            shown[name] = png
            for each in shown:
                page.expect_picture(f".bp-{each} img", shown[each])

        page.run()
        page.screenshot("before")
        for name, twin in twins.items():
            for place, (control, value) in enumerate(choices[name].items()):
                page.page.locator(f".bp-{name} select").nth(place).select_option(value)
                twin.controls[control].value = value
                expect(name, twin.picture.value)
            for control, (place, value) in moves[name].items():
                page.page.locator(f".bp-{name} .noUi-handle").nth(place).focus()
                for _ in range(3):
                    page.page.keyboard.press("ArrowRight")
                twin.controls[control].value = value
                expect(name, twin.picture.value)
        page.screenshot("after")
        for name in twins:
            page.page.locator(f".bp-{name} button").click()
            expect(name, start[name])
        page.check_page()


def test_a_cell_that_raises_is_reported(lab):
    lab.write("raises.ipynb", [("code", "1 + 1"), ("code", "1 / 0"), ("code", "2 + 2")])
    with pytest.raises(AssertionError, match="ZeroDivisionError"), lab.open("raises.ipynb") as page:
        page.run()
    assert (lab.screenshots / "raises_failed.png").stat().st_size > 1000


def test_a_slider_that_changes_nothing_is_reported(lab):
    """It sends the same picture again: a new address in the page, the same bytes."""
    lab.write("frozen.ipynb", [("code", FROZEN)])
    with lab.open("frozen.ipynb") as page:
        page.run()
        with pytest.raises(AssertionError, match="stayed the same"):
            page.move_slider(SLIDER, PICTURE, timeout=4)


@pytest.mark.parametrize("name, formulas, message", [
    ("refused", "$$ \\frobnicate{x} $$\n\n$$ \\frac{1} $$", "refuses .*frobnicate.*Missing argument"),
    ("source", "$$ x $$\n\n$$ \\frac{1}{ $$", "left in the text"),
    ("nothing", "no formula at all", "no formula is typeset"),
], ids=["refused", "source", "nothing"])
def test_a_formula_that_does_not_render_is_reported(lab, name, formulas, message):
    lab.write(f"{name}.ipynb", [("markdown", formulas), ("code", "1")])
    with lab.open(f"{name}.ipynb") as page, pytest.raises(AssertionError, match=message):
        page.check_math(timeout=3)
