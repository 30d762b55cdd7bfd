"""Channels scaled up before a layer and down behind the one in front of it, so that the float network stays the same
function and its integers lose less:

    x -> A(w1) -> Relu -> B(w2)        =>        x -> A(w1 / s) -> Relu -> B(w2 * s)

`sites` finds where that is possible, `proposals` says which s the published methods take, `accept` measures each of
them at each site and carries out the best, where there is one.

`rotate` is the same with an orthogonal matrix R in place of 1 / s, between products alone: `streams` finds where,
`rotations` makes R.
"""
