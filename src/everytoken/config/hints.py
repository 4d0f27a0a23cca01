"""Words of Lightning, Hugging Face and others, and what to type here instead.

What has no counterpart isn't in the table: a wrong hint is worse than none.
"""

ACCUMULATION = ": it follows from data.batch_tokens (or data.batch_size) and data.microbatch_tokens"
PRECISION = ": choose precision=fp32, precision=bf16 or precision=fp16"
BATCH = (
    ": give data.batch_size=EXAMPLES data.batch_tokens=null, for one optimizer step on all devices"
)
SCHEDULE = (
    ": choose scheduler=warmup_cosine, scheduler=linear, scheduler=constant, "
    "scheduler=inverse_sqrt or scheduler=warmup_stable_decay"
)
FLOOR = ": use scheduler.final_fraction, a part of optimizer.lr"
STEPS = ": use trainer.val_check_interval, in steps or epochs (1ep)"
LIMIT = ": use data.limit_examples"
TRIAL = ": choose debug=fast"
BEST = ": the best checkpoint is kept and tested; see callbacks.best_checkpoint.monitor"
EACH_EPOCH = (
    ": use trainer.val_check_interval in epochs (1ep), and add Lightning's ModelCheckpoint with "
    "save_top_k=-1 to callbacks, which saves after each validation"
)
SAVING = ": use callbacks.last_checkpoint.every_n_steps"
PLACE = ": use hydra.run.dir=PATH"
LOADERS = ": use data.num_workers"
RESUME = ": use resume=DIR"

ORIGIN = ": use init_from=RUN, for weights; resume=RUN goes on with a run"
CHECKPOINTED = ": use model.checkpoint_activations"
LENGTH = ": use task.objective.window_tokens or task.objective.max_tokens"
SIDE = ": use task.objective.max_tokens, of a source and of a target"
ANSWER = ": use task.max_new_tokens"
BEAMS = ": use decoding.beams, with decoding=beam"
CPU = ": choose trainer=cpu"
ALIKE = ": sequences of like length go together as it is"
OPTIMIZERS = ": choose optimizer=adamw, optimizer=sgd or optimizer=muon"
LABEL = ": use data.label, with data=labelled, or data.tag, with data=tagged"
SOURCE = ": use data.source, with data=pairs or data=hub"
TARGET = ": use data.target, with data=pairs or data=hub"
TEXT = ": use data.text; with data=tagged, data.word"
HUB = ": use data.name, with data=hub"
MICROBATCH = ": use data.microbatch_tokens"
TOKENIZER = ": use tokenizer.path, with tokenizer=pretrained"
TOKEN = ": set $HF_TOKEN"

SPLIT = ": use trainer.tensor_parallel, with trainer=fsdp"

ANSWERS = {
    # of Lightning's Trainer, and its ModelParallelStrategy
    "accumulate_grad_batches": ACCUMULATION,
    "check_val_every_n_epoch": STEPS,
    "deterministic": ": on CPUs a run is so as it is; for GPUs use_deterministic_algorithms of "
    "torch in a callback of your own, see callbacks=project",
    "detect_anomaly": ": a step whose gradient isn't finite is replayed and explained anyway, see "
    "trainer.skip_nonfinite_steps",
    "default_root_dir": PLACE,
    "enable_checkpointing": ": choose callbacks=none for none",
    "enable_progress_bar": ": use callbacks.progress=null for none",
    "every_n_epochs": EACH_EPOCH,
    "fast_dev_run": TRIAL,
    "fsdp": ": choose trainer=fsdp",
    "gradient_clip_algorithm": None,
    "gpus": ": use trainer.devices, with trainer=gpu or trainer=ddp",
    "gradient_clip_norm": ": use trainer.gradient_clip_val",
    "limit_test_batches": LIMIT,
    "limit_train_batches": LIMIT,
    "limit_val_batches": LIMIT,
    "min_epochs": None,
    "min_steps": None,
    "max_time": ": use trainer.time_limit, in hours",
    "overfit_batches": ": choose debug=overfit",
    "precision": PRECISION,
    "profiler": ": speed and share of peak are logged anyway, see callbacks.machine_use; for more "
    "start the profiler of torch in a callback of your own, see callbacks=project",
    "save_every_n_epochs": EACH_EPOCH,
    "save_top_k": ": add Lightning's ModelCheckpoint to callbacks, which has it",
    "data_parallel_size": ": it is the processes of the run over trainer.tensor_parallel",
    "sync_batchnorm": ": buffers are those of rank 0 after each step",
    "tensor_parallel_size": SPLIT,
    # of Hugging Face's TrainingArguments
    "accelerator_config": None,
    "adam_beta1": ": use optimizer.betas",
    "adam_beta2": ": use optimizer.betas",
    "adam_epsilon": ": use optimizer.eps",
    "bf16": PRECISION,
    "data_seed": ": use seed",
    "dataloader_num_workers": LOADERS,
    "ddp_timeout": ": use trainer.hang_timeout",
    "enable_jit_checkpoint": ": a run that is stopped saves anyway, and goes on with resume=DIR",
    "do_eval": ": use python -m eval run=DIR",
    "do_predict": ": use python -m generate run=DIR",
    "eval_steps": STEPS,
    "eval_strategy": STEPS,
    "fp16": PRECISION,
    "gradient_accumulation_steps": ACCUMULATION,
    "greater_is_better": ": use callbacks.best_checkpoint.mode",
    "hub_strategy": None,
    "hub_token": TOKEN,
    "label_smoothing_factor": ": use label_smoothing",
    "learning_rate": ": use optimizer.lr",
    "load_best_model_at_end": BEST,
    "logging_dir": PLACE,
    "logging_strategy": None,
    "logging_steps": ": use trainer.log_every_n_steps",
    "lr_scheduler_type": SCHEDULE,
    "max_grad_norm": ": use trainer.gradient_clip_val",
    "metric_for_best_model": ": use callbacks.best_checkpoint.monitor",
    "num_train_epochs": ": use trainer.max_epochs",
    "optim_args": None,
    "optim": OPTIMIZERS,
    "output_dir": PLACE,
    "per_device_eval_batch_size": MICROBATCH,
    "per_device_train_batch_size": BATCH,
    "project": ": use logger.wandb.project",
    "report_to": ": choose logger=wandb, tensorboard, csv or none",
    "resume_from_checkpoint": RESUME,
    "run_name": ": use name",
    "save_steps": SAVING,
    "save_strategy": SAVING,
    "save_total_limit": ": use callbacks.last_checkpoint.keep",
    "torch_compile": ": use compile",
    "train_batch_size": BATCH,
    "train_sampling_strategy": ALIKE,
    "use_cpu": CPU,
    "warmup_ratio": ": use scheduler.warmup_fraction",
    "warmup_steps": ": use scheduler.warmup_fraction, a share of all steps",
    # of its earlier versions
    "evaluation_strategy": STEPS,
    "group_by_length": ALIKE,
    "no_cuda": CPU,
    "per_gpu_eval_batch_size": MICROBATCH,
    "per_gpu_train_batch_size": BATCH,
    # of its other TrainingArguments
    "disable_tqdm": ": use callbacks.progress=null",
    "generation_max_length": ANSWER,
    "generation_num_beams": BEAMS,
    "predict_with_generate": ANSWER,
    # of its example scripts, and of trl's
    "block_size": LENGTH,
    "dataset_config_name": ": use data.config, with data=hub",
    "dataset_name": HUB,
    "dataset_text_field": TEXT,
    "dtype": PRECISION,
    "freeze_embeds": ": use freeze",
    "freeze_encoder": ": use freeze",
    "label_all_tokens": ": use task.objective.label, with task=token_classification",
    "label_column_name": LABEL,
    "lora_alpha": ": use adapter.alpha, with adapter=lora",
    "lora_dropout": ": use adapter.dropout, with adapter=lora",
    "lora_r": ": use adapter.rank, with adapter=lora",
    "lora_target_modules": ": use adapter.targets, with adapter=lora",
    "max_eval_samples": LIMIT,
    "max_predict_samples": LIMIT,
    "max_seq_length": LENGTH,
    "max_source_length": SIDE,
    "max_target_length": SIDE,
    "max_train_samples": LIMIT,
    "mlm_probability": ": use task.objective.corrupted_fraction, with task=masked_lm",
    "num_beams": BEAMS,
    "source_lang": SOURCE,
    "summary_column": TARGET,
    "target_lang": TARGET,
    "test_file": ": use data.test_path",
    "text_column": ": use data.text; with data=pairs, data.source",
    "text_column_name": TEXT,
    "text_column_names": TEXT,
    "token": TOKEN,
    "tokenizer_file": TOKENIZER,
    "tokenizer_name": TOKENIZER,
    "tokenizer_name_or_path": TOKENIZER,
    "torch_dtype": PRECISION,
    "train_file": ": use data.path, with data=text, pairs, labelled, tagged or chat",
    "train_split_name": ": use data.train_split, with data=hub",
    "use_peft": ": choose adapter=lora",
    "val_max_target_length": SIDE,
    "validation_file": ": use data.val_path",
    "validation_split_percentage": ": use data.val_fraction, a share from 0 to 1",
    # of model configs, and others
    "curriculum": ": use data.curriculum_epochs",
    "pretrained_model": ORIGIN,
    "model_name_or_path": ": use model.name_or_path, with model=hf",
    "load_from_checkpoint": ORIGIN,
    "init_checkpoint": ORIGIN,
    "finetune_from": ORIGIN,
    "gradient_checkpointing": CHECKPOINTED,
    "gradient_checkpointing_kwargs": CHECKPOINTED,
    "activation_checkpointing": CHECKPOINTED,
    "ckpt_path": RESUME,
    "d_ff": ": use model.ffn_width",
    "d_model": ": use model.width",
    "epochs": ": use trainer.max_epochs",
    "hidden_size": ": use model.width",
    "intermediate_size": ": use model.ffn_width",
    "log_dir": PLACE,
    "loss": ": a loss of your own is a module, see module=project",
    "lr": ": use optimizer.lr",
    "lr_scheduler": SCHEDULE,
    "layerwise_lr_decay": ": choose parameter_groups=by_name, and patterns of names",
    "min_lr": FLOOR,
    "min_lr_ratio": FLOOR,
    "max_length": LENGTH,
    "n_embd": ": use model.width",
    "n_head": ": use model.heads",
    "n_heads": ": use model.heads",
    "n_layer": ": use model.layers",
    "n_layers": ": use model.layers",
    "num_attention_heads": ": use model.heads",
    "num_hidden_layers": ": use model.layers",
    "num_key_value_heads": ": use model.key_value_heads",
    "num_layers": ": use model.layers",
    "rope_theta": ": use model.rope_base",
    "tensor_model_parallel_size": SPLIT,
    "tensor_parallel_degree": SPLIT,
    "tp_size": SPLIT,
    "vocab_size": ": use tokenizer.vocabulary_size, with tokenizer=bpe",
}
"""By the last part of a key; None for what looks like one of ours, and has no counterpart."""
