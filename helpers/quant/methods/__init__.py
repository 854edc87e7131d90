"""Methods that choose the codes: GPTQ, AWQ, SmoothQuant, quantisation-aware training, and calibration."""
