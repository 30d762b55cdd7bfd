"""Integers for the weights of one layer from what enters it: pure numpy on arrays, no graph.

Every algorithm sees a layer as groups of rows that multiply columns: weight [G,R,n] (G groups of a grouped convolution,
R output channels each, n weights per output), its inputs' second moments [G,n,n], and a step that broadcasts against
the weight. A row q of integers loses (q * step - w)^T H (q * step - w) of the output's squared error.
"""
