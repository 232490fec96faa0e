"""Keys of configs that change nothing of what is computed here."""

from __future__ import annotations

# Keys that never change what a loaded model computes: provenance, training, and the runtime of other libraries.
HARMLESS = frozenset(
    """_attn_implementation _attn_implementation_autoset _name_or_path architectures attention_dropout attn_implementation
    auto_map bos_token_id chunk_size_feed_forward classifier_dropout cross_attention_hidden_size dtype embd_pdrop
    eos_token_id ep_size finetuning_task gguf hidden_dropout hidden_dropout_prob id2label initializer_range is_decoder
    is_encoder_decoder is_llama_config keys_to_ignore_at_inference label2id max_length model_type name_or_path
    output_attentions output_hidden_states output_router_logits pad_token_id padding_idx pretraining_tp problem_type
    resid_pdrop return_dict return_dict_in_generate rope_interleaved router_aux_loss_coef seq_aux aux_loss_alpha
    sep_token_id task_specific_params temperature tf_legacy_loss tokenizer_class torch_dtype torchscript
    transformers_version transformers.js_config unsloth_fixed unsloth_version use_bfloat16 use_cache add_cross_attention
    tie_encoder_decoder bad_words_ids begin_suppress_tokens suppress_tokens decoder_start_token_id num_return_sequences
    early_stopping min_length do_sample num_beams top_k top_p typical_p repetition_penalty length_penalty
    diversity_penalty num_beam_groups no_repeat_ngram_size encoder_no_repeat_ngram_size forced_bos_token_id
    forced_eos_token_id exponential_decay_length_penalty output_scores remove_invalid_values prefix pruned_heads
    quantization_config""".split()
)

VISION_KEYS = (
    "vision_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "audio_token_id",
    "media_placeholder_token_id",
    "language_model_only",
    "use_unified_vision_chunk",
    "projection_hidden_size",
    "projection_layer_norm_eps",
    "video_placeholder",
    "image_placeholder",
    "ignore_index",
)
