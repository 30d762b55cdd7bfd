"""Integers for the weights of one layer from what enters it: pure numpy on arrays, no graph.

Every algorithm sees a layer as groups of rows that multiply columns: weight [G,R,n] (G groups of a grouped convolution,
R output channels each, n weights per output), its inputs' second moments H [G,n,n], and a scale that broadcasts
against the weight. A row q of integers loses (q * scale - w)^T H (q * scale - w) of the output's squared error.
"""
