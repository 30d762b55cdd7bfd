"""What rounding alone cannot give: the quantized network learns, on samples without labels, to say what the float one
says. Needs torch, which is imported inside of functions and of what `train` imports alone.
"""
