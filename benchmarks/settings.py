"""What every engine is given alike."""

LORA_RANK = 8
LORA_ALPHA = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LEARNING_RATE = 1e-3
BATCH_SIZE = 8
SEED = 7
