"""Every number of taste: what another engineer could have chosen otherwise, with what it was chosen by.

A fact about an engine is no policy: it is a row of that engine's tables, with a link to what sets it.

    python -m edgeq.policy > docs/policy.md
"""
from __future__ import annotations

import sys
from typing import Final

from edgeq.parameter import Convention, Measured, NotMeasured, Parameter

_HQQ: Final = "https://github.com/mobiusml/hqq, hqq/core/optimize.py"

# -- what is good: the five answers, the worst first -------------------------------------------------------------------

BROKEN_DB: Final = Parameter(
    15.0, "dB SQNR", "below, a layer or a bundle is called broken, and the first such layer is named",
    NotMeasured("the error has a sixth of the signal's amplitude; 8 bits that work were seen to stay above 25 dB"))
BROKEN_TOP1: Final = Parameter(
    0.5, "of the samples", "whose best class must stay, or the bundle is called broken",
    NotMeasured("half of the answers are others"))
GOOD_TOP1: Final = Parameter(
    0.99, "of the samples", "whose best class must stay in a bundle that is called good",
    NotMeasured("one of 8 samples lost is not good; of 100, chance alone moves one"))
GOOD_DB: Final = Parameter(
    25.0, "dB SQNR", "from here on the report calls an output good, and looks for no culprit",
    NotMeasured("8 bits that work were seen to stay above it"))
SCORES_DB: Final = Parameter(
    32.0, "dB SQNR", "from here on plain W8A8 is kept where every output is one row of scores: no float fallbacks",
    NotMeasured("an error of 32 dB moves scores by a 40th of their size, and hardly an argmax"))
VALUES_DB: Final = Parameter(
    38.0, "dB SQNR", "the same where outputs are images, boxes or other values",
    NotMeasured("images and boxes show more of an error than an argmax does"))

# -- verify ------------------------------------------------------------------------------------------------------------

NOISE_FACTOR: Final = Parameter(
    2.0, "x noise power", "an artifact may be so many times as far from float as the quantized graph is",
    NotMeasured("a tie that is rounded differently is one step, as large as quantization's own error, and adds to it"))
NOISE_FLOOR_DB: Final = Parameter(
    50.0, "dB SQNR", "and as far as this in any case",
    NotMeasured("computing in half precision left 55 to 75 dB over whole networks, by no command that is kept"))
DOUBT_FACTOR: Final = Parameter(
    2.0, "x allowed power", "up to which an artifact beyond that is doubtful, and not wrong",
    NotMeasured("3 dB, which no wrong kernel was seen to stay within, by no command that is kept"))
PASSES_DB: Final = Parameter(
    50.0, "dB SQNR", "that the prepared float network must have against its source, run by another engine",
    Measured("90 dB and more over the models; a wrong Resize had left 18", "python benchmarks/passes.py"))
ARITHMETIC_MARGIN: Final = Parameter(
    16.0, "x noise power", "of fused operators and of inputs one unit off, which two correct engines may differ by",
    NotMeasured("4 in amplitude"))
VERIFIED_SAMPLES: Final = Parameter(
    8, "samples", "that a bundle is verified on",
    NotMeasured("enough to see a wrong layout or a broken kernel; no accuracy is measured on them"))
GENERATED_SAMPLES: Final = Parameter(
    4, "samples", "of noise that a bundle is verified on where the user gave none", NotMeasured("noise is like noise"))

JUDGED_WINDOW: Final = Parameter(
    512, "tokens", "of a text that a language model reads before it begins anew, where perplexity and KL are measured",
    Convention("https://github.com/ggml-org/llama.cpp/tree/master/tools/perplexity (its default context)"))
ANSWER_TOKENS: Final = Parameter(
    32, "tokens", "that a task's answer may have where it does not say", NotMeasured("a sentence"))
JSON_TOKENS: Final = Parameter(
    256, "tokens", "that JSON may have where a task does not say", NotMeasured("an object of some ten fields"))
JUDGED_PART: Final = Parameter(
    128, "tokens", "whose logits are held at a time; no result changes",
    NotMeasured("with a vocabulary of 150,000 they take 80 MB"))

# -- estimates of language models --------------------------------------------------------------------------------------

ESTIMATED_CONTEXT: Final = Parameter(
    4096, "tokens", "that a language model's memory is estimated for; the runtime's own bound where a bundle says none",
    NotMeasured("longer dialogues are rare, and a cache of 131,072 is larger than the weights"))
PHONE_SHARE: Final = Parameter(
    0.5, "of the memory", "that one app may hold on a phone before the system ends it",
    NotMeasured("iOS ends apps at about half, Android keeps the rest for itself and what runs behind"))
BOARD_SHARE: Final = Parameter(
    0.8, "of the memory", "that a model may hold on a board which does nothing else", NotMeasured())
LAPTOP_SHARE: Final = Parameter(
    0.6, "of the memory", "that a model may hold beside a desktop and a browser", NotMeasured())
ENGINE_MEGABYTES: Final = Parameter(
    12, "MB", "that llama.cpp holds beside file, cache and activations, whatever the model",
    NotMeasured("peaks of SmolLM2-135M and of a decoder of 5 million weights then lie within 5 % of what is told"))
TOKEN_BYTES: Final = Parameter(
    400, "bytes", "that a token of the vocabulary takes in llama.cpp's tokenizer", NotMeasured())

# -- half precision ----------------------------------------------------------------------------------------------------

LOUDER_INPUTS: Final = Parameter(
    32.0, "x the samples", "float inputs that a device may meet: what then passes 65504 leaves half precision",
    NotMeasured("a microphone's level or pixels of 0..1 for 0..255 make 20 times; a power of two is exact"))
LOUDER_NOISE: Final = Parameter(
    256.0, "x normal numbers", "the same where the user gave no samples",
    NotMeasured("pixels of 0..255 and more; on five networks it moved at most 6 of 188 nodes to float32"))
LARGEST_MARGIN: Final = Parameter(
    4.0, "x the largest value", "for what other samples of the same loudness do", NotMeasured())
LARGEST_SAMPLES: Final = Parameter(
    4, "samples", "of each loudness that show how large values become", NotMeasured("the margin covers the others"))
LARGEST_MASK: Final = Parameter(
    8000.0, "", "constants below minus this count as so much: they stand for 'never', as a mask's -1e9",
    NotMeasured("with the margin, it stays below 65504"))

# -- mixed precision: measuring ----------------------------------------------------------------------------------------

NOISE_SAMPLES: Final = Parameter(
    8, "samples", "that the noise of single roundings is measured on, for a search and at 4 bits",
    NotMeasured("that noise varies little from one sample to the next"))
FALLBACK_NOISE_SAMPLES: Final = Parameter(4, "samples", "the same, to choose float fallbacks at 8 bits", NotMeasured())
FIDELITY_SAMPLES: Final = Parameter(
    16, "samples", "that whole quantized networks are compared with float on", NotMeasured())
PICTURE_SIDE: Final = Parameter(
    16, "pixels", "each way, from which an output of 1, 3 or 4 channels is told as a picture, with its PSNR",
    NotMeasured("feature maps at the end of a network are smaller, or have more channels"))
UNIT_NORM: Final = Parameter(
    1e-3, "", "by which the norms of rows may differ from 1 in an embedding, which has neighbours and no best class",
    NotMeasured("normalization in float16 is within it"))
COLUMNS_APART: Final = Parameter(
    10.0, "x the amplitude", "from which parts that a Concat joined in one output are measured apart",
    NotMeasured("boxes in pixels are a hundred times the scores beside them; logits of two heads are not"))
FLOAT_COST: Final = Parameter(
    1.0, "x the 8-bit weights", "what computing the whole network in float costs on the Pareto path",
    NotMeasured("if bytes alone counted, a search would compute everything in float first"))
OWN_GRID: Final = Parameter(
    0.5, "x noise power", "what a value on quantization parameters of its own keeps of the noise it has on shared ones",
    NotMeasured("seen on a ShuffleNet, by no command that is kept"))
ELEMENT_WORK: Final = Parameter(
    8, "multiplications", "what reading and writing one element of an operator without weights counts as",
    NotMeasured("memory is slower than arithmetic"))

# -- mixed precision: float fallbacks at 8 bits ------------------------------------------------------------------------

PREFER_ACCURACY: Final = Parameter(
    1.1, "x plain INT8's time", "that a plan may take at most, predicted or by --measure, with --prefer accuracy",
    NotMeasured())
PREFER_BALANCED: Final = Parameter(
    1.02, "x plain INT8's time", "the same with --prefer balanced", NotMeasured("nobody sees 2 %"))
PREFER_SPEED: Final = Parameter(
    1.0, "x plain INT8's time", "the same with --prefer speed", NotMeasured("float where it costs nothing"))
FASTER_FLOAT: Final = Parameter(
    0.8, "x plain INT8's time", "up to which float counts as faster", NotMeasured("predictions are off by 15 %"))
FALLBACK_MOST_FLOAT: Final = Parameter(
    0.25, "of all work", "that fallbacks may compute in float at most, without --prefer or where times are not known",
    NotMeasured("beyond, the user did not ask for a float network"))
FALLBACK_MOST_BYTES: Final = Parameter(
    1.1, "x plain W8A8's weights", "that the weights may take with fallbacks", NotMeasured())
FALLBACK_WORTH_DB: Final = Parameter(
    10.0, "dB for all work", "what computing everything in float would have to gain: a tenth of the work, 1 dB",
    NotMeasured("with it a ResNet-20 gains 4 dB for 5 % of its work; other prices were not compared"))
FALLBACK_STEP_DB: Final = Parameter(
    0.5, "dB", "predicted gain over the last trial from which the next one is quantized", NotMeasured())
FALLBACK_GAIN_DB: Final = Parameter(
    0.5, "dB", "that float must gain, or all stays on integers", NotMeasured("nobody sees or hears less"))
FALLBACK_TRIALS: Final = Parameter(8, "networks", "quantized and compared with float, at most", NotMeasured())

CLOCK_ROUNDS: Final = Parameter(
    40, "rounds", "in which --measure lets plain INT8, float and a trial take turns", NotMeasured())
CLOCK_TURN_SECONDS: Final = Parameter(
    0.004, "s", "of one turn, or two runs where these take longer",
    NotMeasured("short beside what else a machine does"))
CLOCK_BOARD_ROUNDS: Final = Parameter(
    3, "rounds", "the same on a board, where each turn is a process", NotMeasured())
CLOCK_BOARD_RUNS: Final = Parameter(
    50, "runs", "of one turn on a board, of which the median counts", NotMeasured())

# -- mixed precision: which layers keep 8 bits at 4 --------------------------------------------------------------------

ALLOCATION_WORTH_DB: Final = Parameter(
    0.5, "dB", "by which a measured choice must beat the rules'", NotMeasured("less would change with the samples"))
ALLOCATION_DOUBLED_DB: Final = Parameter(
    24.0, "dB for twice the bytes", "what bytes beyond the rules' have to gain: what 8 bits everywhere would",
    Convention("6.02 dB for each of four bits, as uniform rounding has it"))
ALLOCATION_MOST_BYTES: Final = Parameter(
    1.15, "x the rules' bytes", "that layers which may have 4 bits take at most",
    Measured("SqueezeNet 1.1 keeps 27 dB with it and 24 at 1.0; nothing between was compared",
             "python benchmarks/ablation.py --items imagenet_squeezenet11 --methods 'auto, measured layers'"))
ALLOCATION_TRIALS: Final = Parameter(
    3, "networks", "quantized around each of two places of the path",
    NotMeasured("noise adds up nearly, so that a smaller assignment is sometimes the better one"))

# -- mixed precision: the search for a metric --------------------------------------------------------------------------

SEARCH_BUDGET: Final = Parameter(
    16, "networks", "quantized, written and scored, at most",
    NotMeasured("a bisection of a path of 1000 steps needs 10"))
SEARCH_REFITS: Final = Parameter(
    3, "networks", "of these, with weights fitted anew to the whole assignment", NotMeasured("they take longest"))

# -- the plan ----------------------------------------------------------------------------------------------------------

FIRST_LAYER_SHARE: Final = Parameter(
    0.02, "of all weights", "up to which the first layer keeps 8 bits in a network of 4", NotMeasured())
LAST_LAYER_SHARE: Final = Parameter(
    0.15, "of all weights", "up to which the last layer does",
    NotMeasured("a language model's head of 12 % was seen to cost as much at 4 bits as 40 % of its other layers"))
SMALLEST_LAYERS_SHARE: Final = Parameter(
    0.05, "of all weights", "up to which the smallest layers together do", NotMeasured())
EMBEDDING_SAVES_BYTES: Final = Parameter(
    1024, "bytes", "that 8 bits must save on an embedding's table",
    NotMeasured("scaling the rows found takes 240 bytes of an ONNX file and 440 of a TFLite one, and three nodes"))
ACTIVATION_LIMIT: Final = Parameter(
    1e4, "", "from which the upper bound of a Clip is no activation's, but guards what follows",
    NotMeasured("torch's clamp(min=1e-10) ends at infinity, activations at 6 and such"))
MASK_MAGNITUDE: Final = Parameter(
    1e4, "", "from which a negative constant is an attention mask, and stays float",
    NotMeasured("one step of 256 over it exceeds any score"))
SPECTRUM_PARTS: Final = Parameter(
    2, "addends", "of a sum that may be the power of a spectrum: real and imaginary part",
    NotMeasured("a sum over more is a statistic, as normalizations use"))

# -- samples that figures come from ------------------------------------------------------------------------------------

HELD_OUT_ONE_IN: Final = Parameter(
    5, "one in", "calibration samples that no range, weight or choice sees, so that figures can come from them",
    Measured("at 4 bits figures fall by 10.4 dB on KWT-1, 2.4 on Silero, 1.2 on stories260K and 0.5 on ResNet-20 when "
             "they come from samples that nothing was fitted to", "python benchmarks/held_out.py"))
HELD_OUT_MOST: Final = Parameter(
    32, "samples", "of them, at most", NotMeasured("more would take from the ranges, and verification runs 8"))
HELD_OUT_FROM: Final = Parameter(
    10, "samples", "below, none can be spared, and the report says so", NotMeasured("two are left out of 10"))
ROLLED_STEPS: Final = Parameter(256, "steps", "of a stream that a network with a state is compared with float over",
                                NotMeasured("8 seconds of a voice detector"))
REPORTED_ONE_IN: Final = Parameter(
    3, "one in", "samples of --eval that a search does not see, and that its result is reported on",
    NotMeasured("of 100 samples 33 are left to report on"))

# -- calibration -------------------------------------------------------------------------------------------------------

ENOUGH_SAMPLES: Final = Parameter(
    32, "samples", "below, the report says that they are few",
    NotMeasured("the ranges of most networks were seen to stand still by then"))
RANGE_MOVED: Final = Parameter(
    0.1, "of a range", "by which later samples must move it to be told", NotMeasured("26 of 256 steps"))
OTHER_SCALE: Final = Parameter(
    16.0, "x the usual peak", "from which a sample has another scale than the rest",
    NotMeasured("0..255 beside 0..1 is 255"))
FULL_SCALE: Final = Parameter(
    1.05, "", "up to which a signal may be one between -1 and 1", NotMeasured("filters overshoot a little"))
NOISE_CORRELATION: Final = Parameter(
    0.1, "correlation", "of neighbours, below which samples are noise",
    Measured("median of each of ten models' own samples: 0.19 (token ids) to 0.99; of noise below 0.02",
             "python benchmarks/held_out.py --advice"))
NEIGHBOURS: Final = Parameter(
    16, "elements", "of an axis, from which the correlation of neighbours says anything", NotMeasured())
EVEN_SPREAD: Final = Parameter(
    0.1, "x the mean", "by which each sixteenth of a range may be off where numbers are uniform noise",
    NotMeasured("or four standard deviations, where there are few numbers"))
EVEN_SPREAD_NUMBERS: Final = Parameter(4096, "numbers", "from which that is looked at", NotMeasured())
OUTSIDE_RANGE: Final = Parameter(
    0.02, "of the numbers of --eval", "beyond the calibrated range of an input, from which it is told",
    Measured("0.01 % at most between the samples of ten models, 74 % and 99 % for pixels from 0 to 1",
             "python benchmarks/held_out.py --advice"))
ENUMERATED_SIZES: Final = Parameter(
    8, "sizes", "of a free dimension among the samples, up to which they are enumerated and not a range",
    NotMeasured("every enumerated size is verified"))
ENUMERATED_STRIDE: Final = Parameter(
    8, "elements", "that enumerated sizes must be multiples of", NotMeasured("three halvings of a picture"))
DECLARED_REACH: Final = Parameter(
    0.5, "of the declared range", "that pictures must span, or they were prepared otherwise",
    NotMeasured("a set of pictures has nearly black pixels and nearly white ones"))
RESPONSE_LEAST_SAMPLES: Final = Parameter(
    16, "samples", "below, what a classifier answers to other forms of its pictures is not asked", NotMeasured())
RESPONSE_SCALE_SAMPLES: Final = Parameter(24, "samples", "that other scales are tried on", NotMeasured("time"))
RESPONSE_ORDER_SAMPLES: Final = Parameter(
    (32.0, 64.0, 100.0), "samples", "that the other order of channels is tried on, until the answer is sure",
    Measured("BGR pictures are found with 32 samples on SqueezeNet 1.1 and with 100 on ResNet-20 of CIFAR-10",
             "python benchmarks/held_out.py --advice"))
RESPONSE_SURE: Final = Parameter(
    3.0, "standard errors", "by which another form must tell the pictures apart better",
    Measured("own samples of the ten models lie below 0", "python benchmarks/held_out.py --advice"))
RESPONSE_GAIN: Final = Parameter(
    1.2, "x the information", "that another scale must give besides",
    Measured("3.0 nats for 0.06 and 1.96 for 1.14 where pixels from 0 to 1 are wrong",
             "python benchmarks/held_out.py --advice"))
RESPONSE_LEAST: Final = Parameter(
    0.5, "nats", "that a classifier must say of its pictures in that other scale",
    Measured("1.9 and 3.0 for pictures, 0.3 at most for noise", "python benchmarks/held_out.py --advice"))
RAW_PIXEL: Final = Parameter(64.0, "", "above which whole numbers up to 255 are raw pixels", NotMeasured())
INTERLEAVED: Final = Parameter(
    0.8, "x the difference of neighbours", "below which values one pixel apart show channels last", NotMeasured())
MANY_ONE_IN: Final = Parameter(
    10, "one in", "so many repeated samples, or moved ranges, are worth a word", NotMeasured())
PERCENTILE: Final = Parameter(
    99.99, "% of elements", "that the percentile calibrator keeps",
    Convention("one of those that Wu et al. 2020, arXiv:2004.09602, compare"))
MSE_CANDIDATES: Final = Parameter(128, "ends", "of a range that the mse calibrator tries on each side", NotMeasured())
ENTROPY_CANDIDATES: Final = Parameter(64, "ends", "the same for the entropy calibrator", NotMeasured())
HISTOGRAM_ELEMENTS: Final = Parameter(
    1 << 14, "elements", "of one tensor of one sample that are counted one by one",
    Measured("calibration is then no slower than the inference it adds to", "python benchmarks/calibration.py"))
HISTOGRAM_TAIL: Final = Parameter(
    64, "one in", "of a larger tensor's elements, the outermost, which are all counted",
    NotMeasured("where to clip is decided there"))
WIDE_REACH: Final = Parameter(
    2.0, "x what calibration saw", "that a grid of 16 bits covers",
    NotMeasured("by no command that is kept: FastestDet, dB, where weights alone give 28.14: 27.28 at 1, 28.13 at 1.5, "
                "28.12 at 2, 28.04 at 4"))
AUTO_CHOOSING: Final = Parameter(
    8, "samples", "that calibrators are chosen on, value by value; others judge",
    NotMeasured("that others judge was: without, one clipped outlier cost KWT-1 9 dB (benchmarks/accuracy.py)"))
AUTO_JUDGES: Final = Parameter(
    32, "samples", "that these are judged on, at most", NotMeasured("time: each is run once for every choice"))
CHOICE_JUDGES_ONE_IN: Final = Parameter(
    3, "one in", "calibration samples that judge choices before the ranges see them",
    NotMeasured("ResNet-20 looked 3 dB better on samples that the ranges had seen, by no command that is kept"))
CHOICE_JUDGES_MOST: Final = Parameter(
    32, "samples", "of them, at most", NotMeasured("time: each is run once for every trial"))
CHOICE_JUDGES_FROM: Final = Parameter(
    32, "samples", "below, the same ones give ranges and judge", NotMeasured("ranges need most of them"))
AUTO_MARGIN: Final = Parameter(
    0.95, "x the default's error", "below which another calibrator is taken", NotMeasured("what is closer is luck"))
AUTO_ALIKE: Final = Parameter(
    1 / 64, "of a range", "by which two ranges must differ to be two", NotMeasured("4 steps of 256"))

# -- fitting weights to samples ----------------------------------------------------------------------------------------

FIT_SAMPLES: Final = Parameter(
    128, "samples", "that weights are fitted to, at most",
    NotMeasured("more hold more of every layer's inputs in memory; they were seen to change little"))
FIT_LEAST_COLUMNS: Final = Parameter(
    65536, "columns", "of a layer's inputs, of all samples together, up to which all count", NotMeasured())
FIT_COLUMNS_EACH: Final = Parameter(
    24, "columns", "for every input of an output, where that is more",
    NotMeasured("more were seen to cost time and to change nothing"))
FIT_VALIDATION_ONE_IN: Final = Parameter(4, "one in", "samples that are not fitted to, but judge", NotMeasured())
FIT_SMALLEST_CLIP: Final = Parameter(
    0.1, "x the scale that covers all", "below which no fit takes a scale", NotMeasured())
DAMPING: Final = Parameter(
    0.01, "x the mean diagonal", "added to the diagonal of the Hessian",
    Convention("Frantar et al. 2022, GPTQ, arXiv:2210.17323, section 3.3"))
CORRECTIONS: Final = Parameter(
    (1.0, 0.1, 0.01), "x the mean diagonal", "how far weights may move to undo what layers in front did; or not at all",
    NotMeasured("decades, of which validation samples choose"))
GPTQ_BLOCK: Final = Parameter(
    128, "columns", "whose effect on the others is applied by one matrix product; the result is the same",
    Convention("Frantar et al. 2022, GPTQ, arXiv:2210.17323, section 3.3"))
TRIANGLE: Final = Parameter(
    64, "columns", "of a triangle that is inverted as it is; larger ones by halves", NotMeasured("time only"))
DESCENT_BLOCK: Final = Parameter(64, "columns", "the same for coordinate descent", NotMeasured("time only"))
DESCENT_PASSES: Final = Parameter(10, "passes", "of coordinate descent over all weights, at most", NotMeasured())
STORED_PASSES: Final = Parameter(
    3, "passes", "the same for weights of a decoder, of which there are many, before and after each refit of scales",
    NotMeasured("on a layer of SmolLM2 10 passes left the same error, to a part in 500, in twice the time"))
NEAREST_PART: Final = Parameter(
    1 << 20, "weights", "of a decoder that a thread puts on their nearest levels at a time", NotMeasured("memory only"))
FITTED_PART: Final = Parameter(
    1 << 19, "weights", "of a decoder's layer that a thread fits at a time; each inverts the Gram matrix anew",
    NotMeasured("time only"))
BUDGET_STEPS: Final = Parameter(
    1 << 17, "steps", "that a budget of bits is spent in at most; smaller ones where sizes have a common divisor",
    NotMeasured("what rounding up costs 500 tensors is less than half a percent of the budget"))
SENSITIVITY_TOKENS: Final = Parameter(
    512, "tokens", "that each weight's share of a budget of bits is measured on", NotMeasured())
SENSITIVITY_LENGTH: Final = Parameter(128, "tokens", "of a sequence of these", NotMeasured())
SENSITIVITY_ROWS: Final = Parameter(
    64, "rows", "of a weight that the errors of types are compared on", NotMeasured("time only"))
ENGINE_KL: Final = Parameter(
    0.5, "nats a token", "between what an engine says and what its weights say in float, beyond which one of both is "
    "wrong", NotMeasured("llama.cpp, which rounds activations to 8 bits, is .005 away on SmolLM2"))
LANGUAGE_ERROR_FACTOR: Final = Parameter(
    2.0, "x the error here", "that a language model's engine may have elsewhere, against its weights in float",
    NotMeasured("another processor rounds activations in other places"))
LANGUAGE_UNRUN_ERROR: Final = Parameter(
    0.0625, "x the largest logit", "the same where the engine is not installed here", NotMeasured())
HELD_STATES: Final = Parameter(
    320 << 20, "bytes", "of what a decoder's sequences are between two steps of a layer, beyond which it lies on disk",
    NotMeasured("twice so much is held, for both networks, beside the layer's Gram matrices"))
FITTED_SEQUENCES: Final = Parameter(
    64, "sequences", "that a decoder's weights are fitted to", NotMeasured("more gained nothing on small decoders"))
FITTED_TOKENS: Final = Parameter(
    512, "tokens", "of each", NotMeasured("what llama.cpp's importance matrices are made of"))
SHORTEST_SEQUENCE: Final = Parameter(16, "tokens", "of a sequence that a short text is cut into", NotMeasured())
FEW_TOKENS: Final = Parameter(
    16384, "tokens", "fitted to, below which more text is advised",
    NotMeasured("on a decoder of 3 million parameters an eighth of them lost a third more"))
UNLIKE_TEXT: Final = Parameter(
    1.0, "nats a token", "that a text may surprise the float network more than its own would, before that is said",
    NotMeasured())
JUDGED_ONE_IN: Final = Parameter(4, "to one", "sequences that are fitted to for each that judges", NotMeasured())
SAMPLED_AT_ONCE: Final = Parameter(
    16, "sequences", "that a decoder writes side by side; each reads the weights once", NotMeasured())
GRID_PART: Final = Parameter(
    2048, "blocks", "whose scales are searched at a time, so that they fit a processor's cache; no result changes",
    NotMeasured("of 512, 2048, 8192 and all at once this and 512 took half the time of all"))
REFITS: Final = Parameter(2, "turns", "of least-squares scales, each followed by a descent", NotMeasured())
CLIPS: Final = Parameter(
    40, "scales", "from SMALLEST_CLIP to the one that covers all; the least squared error chooses", NotMeasured())
SMALLEST_CLIP: Final = Parameter(0.35, "x the scale that covers all", "the smallest of these", NotMeasured())
TABLE_TURNS: Final = Parameter(30, "iterations", "of k-means for a table of 16 numbers, at most", NotMeasured())
ADAROUND_STRETCH: Final = Parameter(
    (-0.1, 1.1), "", "what the sigmoid is stretched to", Convention("Nagel et al. 2020, arXiv:2004.10568, eq. 23"))
ADAROUND_BETA: Final = Parameter(
    (20.0, 2.0), "", "power of the regularizer, first and last",
    Convention("Qualcomm's AIMET, whose default it is; Nagel et al. 2020, arXiv:2004.10568, eq. 24"))
ADAROUND_WARM: Final = Parameter(
    0.2, "of the iterations", "without the regularizer", Convention("Qualcomm's AIMET, whose default it is"))
ADAROUND_PUSH: Final = Parameter(0.1, "x the error of rounding", "weight of the regularizer", NotMeasured())
ADAROUND_ITERATIONS: Final = Parameter(400, "iterations", "of Adam", NotMeasured())
ADAROUND_RATE: Final = Parameter(0.05, "", "its learning rate", NotMeasured())
HQQ_POWER: Final = Parameter(
    0.7, "", "of the norm: below 1, a few large errors cost less than many small ones",
    Convention(_HQQ))
HQQ_TURNS: Final = Parameter(20, "iterations", "of half-quadratic splitting", Convention(_HQQ))
HQQ_BETA: Final = Parameter(
    (10.0, 1.01), "", "weight of the split, and what it grows by in each iteration",
    Convention(_HQQ))

# -- recovery: the quantized network learns from the float one ---------------------------------------------------------

RECOVERY_JUDGES_ONE_IN: Final = Parameter(
    8, "one in", "samples of --recover that nothing is learned from: they stop the learning and accept its result",
    NotMeasured())
RECOVERY_SAMPLES: Final = Parameter(
    2048, "samples", "that are learned from, at most: they and the teacher's outputs are held", NotMeasured())
RECOVERY_LEAST_SAMPLES: Final = Parameter(
    8, "samples", "below which nothing can be learned and judged", NotMeasured())
RECOVERY_STEPS: Final = Parameter(
    320, "steps", "of learning, at most", NotMeasured())
RECOVERY_JUDGED_EVERY: Final = Parameter(
    20, "steps", "between two judgements", NotMeasured())
RECOVERY_PATIENCE: Final = Parameter(
    6, "judgements", "that bring nothing, after which learning ends", NotMeasured())
RECOVERY_BATCH: Final = Parameter(
    16, "samples", "that a step learns from, at most", NotMeasured())
RECOVERY_LEAST_BATCH: Final = Parameter(
    2, "samples", "that a step learns from, at least", NotMeasured())
RECOVERY_ROWS: Final = Parameter(
    512, "rows of outputs", "that a step learns from, where that needs no more samples than RECOVERY_BATCH",
    NotMeasured())
RECOVERY_RATE: Final = Parameter(
    2e-3, "of a scale's, bias's or norm's own size", "that a step moves it, where codes are frozen", NotMeasured())
RECOVERY_BEGIN: Final = Parameter(
    0.4, "of a step of the grid", "that a weight begins beside its code at most, towards its float number",
    NotMeasured("from 0.5, where the code becomes another, noise alone would change those that the fit chose against "
                "the nearest"))
RECOVERY_WEIGHT_RATE: Final = Parameter(
    1.5e-3, "of a step of the grid, and as RECOVERY_RATE", "that a step moves a weight", NotMeasured())

# -- scaling and rotating channels -------------------------------------------------------------------------------------

SCALING_SAMPLES: Final = Parameter(
    32, "samples", "that scales of channels are chosen on, at most",
    NotMeasured("a scale for each channel takes fewer than an integer for each weight"))
SCALING_LEAST_SAMPLES: Final = Parameter(
    8, "samples", "below which whole networks are not compared to decide whether channels are scaled",
    NotMeasured("each half has to judge the other"))
SCALING_WORTH_DB: Final = Parameter(
    0.3, "dB SQNR", "that scaled channels must gain at the outputs", NotMeasured("what is closer is luck"))
SCALING_ROUNDS: Final = Parameter(4, "rounds", "over all places, where no samples are given", NotMeasured())
SCALING_GAIN: Final = Parameter(
    0.97, "x the error without", "below which a scale or a rotation is kept", NotMeasured("what is closer is luck"))
SCALING_CLIPS: Final = Parameter(12, "scales", "of the grid tried while comparing, in place of CLIPS", NotMeasured())
SCALING_LIMIT: Final = Parameter(64.0, "x their geometric mean", "that a channel's scale may be", NotMeasured())
EQUALIZE_POWERS: Final = Parameter(
    (0.5, 0.25), "", "of the ratio of both layers' largest weights",
    Convention("0.5: Nagel et al. 2019, arXiv:1906.04721, eq. 11; 0.25 is half way there"))
SMOOTH_POWERS: Final = Parameter(
    (0.25, 0.5, 0.75), "", "of the activations' peaks",
    Convention("0.5, and 0.75 for large outliers: Xiao et al. 2023, SmoothQuant, arXiv:2211.10438"))
AWQ_POWERS: Final = Parameter(
    (0.25, 0.5, 0.75, 1.0), "", "of the activations' means",
    Convention("a grid over [0, 1]: Lin et al. 2024, AWQ, arXiv:2306.00978, eq. 5; coarser than theirs"))
ROTATION_SEED: Final = Parameter(
    0, "", "of a rotation's signs", NotMeasured("five seeds left errors within 2 %, by no command that is kept"))
STEEPEST_GAIN: Final = Parameter(
    64.0, "x its gain", "up to which a normalization's bias may be divided by it to rotate it",
    NotMeasured("beyond, float32 loses digits"))


def parameters() -> dict[str, Parameter[int] | Parameter[float] | Parameter[tuple[float, ...]]]:
    """By name, in the order of this file."""
    return {name: found for name, found in globals().items() if isinstance(found, Parameter)}


def table() -> str:
    """docs/policy.md."""
    rows = [f"| `{name}` | {found.value} | {found.unit} | {found.decides} | {found.evidence} |"
            for name, found in parameters().items()]
    return "\n".join([
        "# Numbers that were chosen", "",
        "Every number of edgeq that decides something and that neither mathematics nor an engine gives. The first six",
        "say what is good. `edgeq/policy.py` holds them; this page is `python -m edgeq.policy`.", "",
        "| name | value | unit | what it decides | how it was chosen |", "|---|---|---|---|---|", *rows, ""])


if __name__ == "__main__":
    sys.stdout.write(table())
