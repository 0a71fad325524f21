"""Tiny SAM, SAM 2 and SAM 3 models of transformers with random weights, each with its processor."""

import pytest
import transformers

SIDE = 64


def sam():
    config = transformers.SamConfig(
        vision_config={
            "image_size": SIDE, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "output_channels": 16, "num_pos_feats": 8, "mlp_dim": 64, "global_attn_indexes": [1], "window_size": 4,
        },
        prompt_encoder_config={
            "image_size": SIDE, "patch_size": 8, "hidden_size": 16, "image_embedding_size": 8, "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    images = transformers.SamImageProcessor(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": SIDE // 2}, mask_pad_size={"height": SIDE // 2, "width": SIDE // 2},
    )  # fmt: skip
    return transformers.SamModel(config).eval(), transformers.SamProcessor(images)


def sam2():
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
                "image_size": [SIDE, SIDE],
                "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 4], "window_size_per_stage": [8, 4, 4, 2],
                "window_positional_embedding_background_size": [4, 4], "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"image_size": SIDE, "patch_size": 16, "hidden_size": 32, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
            "iou_head_hidden_dim": 16,
            "dynamic_multimask_via_stability": False,
        },
    )  # fmt: skip
    images = transformers.Sam2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, mask_size={"height": SIDE // 4, "width": SIDE // 4}
    )
    return transformers.Sam2Model(config).eval(), transformers.Sam2Processor(images)


def sam3():
    if not hasattr(transformers, "Sam3TrackerModel"):
        pytest.skip("this transformers has no SAM 3")
    config = transformers.Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
                "global_attn_indexes": [1], "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "scale_factors": [4.0, 2.0, 1.0, 0.5],
        },
        prompt_encoder_config={"image_size": 56, "patch_size": 14, "hidden_size": 32, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
            "iou_head_hidden_dim": 16,
            "dynamic_multimask_via_stability": False,
        },
    )  # fmt: skip
    images = transformers.Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    return transformers.Sam3TrackerModel(config).eval(), transformers.Sam3TrackerProcessor(images)
