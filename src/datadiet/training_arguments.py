"""The Trainer's arguments of a run."""

from __future__ import annotations

from transformers import TrainingArguments

from datadiet import run_folder as layout
from datadiet.config_checks import JOINT, MULTI_LABEL, TAGGER
from datadiet.device import best_device
from datadiet.training_setup import Run


def training_arguments(run: Run) -> TrainingArguments:
    """The Trainer's arguments for a config."""
    config, on_gpu, stopping = run.config, best_device().type != "cpu", run.config.early_stopping > 0
    smooth_themselves = config.task in (JOINT, TAGGER, MULTI_LABEL) or config.class_weights is not None
    return TrainingArguments(
        output_dir=str(run.folder / layout.CHECKPOINTS),
        run_name=run.folder.resolve().name,
        num_train_epochs=config.epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=config.lr_warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        label_smoothing_factor=0.0 if smooth_themselves else config.label_smoothing,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,
        bf16=run.precision == "bf16",
        fp16=run.precision == "fp16",
        activation_checkpointing=config.gradient_checkpointing,
        use_cpu=not on_gpu,
        torch_compile=config.torch_compile,
        eval_strategy="epoch",
        save_strategy="epoch" if stopping else "no",
        # two: a run that is killed while it saves the last one goes on from the one before
        save_total_limit=None if config.keep_checkpoints else 2,
        load_best_model_at_end=stopping,
        metric_for_best_model=run.task.main_metric if stopping else None,
        greater_is_better=True if stopping else None,
        restore_callback_states_from_checkpoint=stopping,  # how long it has been patient
        logging_strategy="epoch",
        report_to=config.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        seed=config.seed,
        data_seed=config.seed,
    )
