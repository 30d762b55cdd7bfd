"""placeholder"""
def validate(model): pass
