# Tables, figures and the report, from result files only.

PRETRAINED = ("g_conffusion", "resnext", "resnest")  # generic pretraining: by diffusion, by classification


rule tabulate_task:
    input:
        results=lambda wildcards: results(task=wildcards.task),
    output:
        beside(RUN.table("{task}"), "csv", "md", "tex"),
    log:
        f"{LOGS}/tabulate_task/{{task}}.log",
    benchmark:
        f"{TIMES}/tabulate_task/{{task}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        code=CODE["tabulate_task"],
    script:
        "../workflow_scripts/tabulate_task.py"


rule tabulate_pretraining:
    input:
        results=results(method_run=[method_run for method_run in PLAN.method_runs if method_of(method_run).name in PRETRAINED]),
    output:
        beside(RUN.table("pretraining"), "csv", "md", "tex"),
    log:
        f"{LOGS}/tabulate_pretraining.log",
    benchmark:
        f"{TIMES}/tabulate_pretraining.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        code=CODE["tabulate_pretraining"],
    script:
        "../workflow_scripts/tabulate_pretraining.py"


rule tabulate_speed:
    input:
        results=results(),
        validity=rules.gather_validity.output.table,  # so that it comes after all jobs whose cost it tells
    output:
        beside(RUN.table("speed"), "csv", "md", "tex"),
    log:
        f"{LOGS}/tabulate_speed.log",
    benchmark:
        f"{TIMES}/tabulate_speed.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        run=PLAN.run,
        batch_size=CONFIG.finetuning.batch_size,
        prior_images=PLAN.prior_images,
        code=CODE["tabulate_speed"],
    script:
        "../workflow_scripts/tabulate_speed.py"


rule tabulate_claims:
    input:
        results=results(),
    output:
        beside(RUN.table("claims"), "csv", "md", "tex"),
    log:
        f"{LOGS}/tabulate_claims.log",
    benchmark:
        f"{TIMES}/tabulate_claims.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        alpha=CONFIG.calibration.alpha,
        n_bootstrap=CONFIG.report.n_bootstrap,
        seed=CONFIG.seed,
        replicates=CONFIG.replicates,
        code=CODE["tabulate_claims"],
    script:
        "../workflow_scripts/tabulate_claims.py"


rule plot_examples:
    input:
        images=images("test"),
        bounds=GUARANTEED.bounds("test"),
        results=GUARANTEED.metrics,
    output:
        beside(RUN.figure("examples_{task}_{method_run}"), "png", "pdf"),
    log:
        f"{LOGS}/plot_examples/{{task}}-{{method_run}}.log",
    benchmark:
        f"{TIMES}/plot_examples/{{task}}-{{method_run}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=memory("plot"),
        runtime=growing(15),
    params:
        examples={"n_examples": CONFIG.report.n_examples, "shown": CONFIG.report.example_pattern},
        code=CODE["plot_examples"],
    script:
        "../workflow_scripts/plot_examples.py"


rule plot_methods:
    input:
        images=lambda wildcards: [PLAN.images(wildcards.task, "test", method_run) for method_run in PLAN.first_method_runs],
        bounds=lambda wildcards: every(RESULTS.bounds("test"), task=wildcards.task, method_run=PLAN.first_method_runs, protocol="guaranteed"),
        results=lambda wildcards: results(task=wildcards.task, method_run=PLAN.first_method_runs, protocol="guaranteed"),
    output:
        beside(RUN.figure("methods_{task}"), "png", "pdf"),
    log:
        f"{LOGS}/plot_methods/{{task}}.log",
    benchmark:
        f"{TIMES}/plot_methods/{{task}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=memory("plot"),
        runtime=growing(15),
    params:
        shown=CONFIG.report.example_pattern,
        code=CODE["plot_methods"],
    script:
        "../workflow_scripts/plot_methods.py"


rule plot_stratified_risk:
    input:
        results=results(),
    output:
        beside(RUN.figure("stratified_risk"), "png", "pdf"),
    log:
        f"{LOGS}/plot_stratified_risk.log",
    benchmark:
        f"{TIMES}/plot_stratified_risk.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        alpha=CONFIG.calibration.alpha,
        code=CODE["plot_stratified_risk"],
    script:
        "../workflow_scripts/plot_stratified_risk.py"


rule plot_size_risk:
    input:
        results=results(),
    output:
        beside(RUN.figure("size_risk"), "png", "pdf"),
    log:
        f"{LOGS}/plot_size_risk.log",
    benchmark:
        f"{TIMES}/plot_size_risk.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        alpha=CONFIG.calibration.alpha,
        code=CODE["plot_size_risk"],
    script:
        "../workflow_scripts/plot_size_risk.py"


rule plot_position_risk:
    input:
        results=results(method_run=PLAN.shown_method_runs, protocol="guaranteed"),
    output:
        beside(RUN.figure("position_risk"), "png", "pdf"),
    log:
        f"{LOGS}/plot_position_risk.log",
    benchmark:
        f"{TIMES}/plot_position_risk.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        alpha=CONFIG.calibration.alpha,
        code=CODE["plot_position_risk"],
    script:
        "../workflow_scripts/plot_position_risk.py"


rule plot_risk_curve:
    input:
        results=lambda wildcards: results(task=wildcards.task, protocol=wildcards.protocol),
    output:
        beside(RUN.figure("risk_curve_{task}_{protocol}"), "png", "pdf"),
    log:
        f"{LOGS}/plot_risk_curve/{{task}}-{{protocol}}.log",
    benchmark:
        f"{TIMES}/plot_risk_curve/{{task}}-{{protocol}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        alpha=CONFIG.calibration.alpha,
        code=CODE["plot_risk_curve"],
    script:
        "../workflow_scripts/plot_risk_curve.py"


rule plot_training:
    input:
        curves=lambda wildcards: expand(rules.finetune_method.output.curve, task=wildcards.task, method_run=PLAN.trained_method_runs),
    output:
        beside(RUN.figure("training_{task}"), "png", "pdf"),
    log:
        f"{LOGS}/plot_training/{{task}}.log",
    benchmark:
        f"{TIMES}/plot_training/{{task}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        code=CODE["plot_training"],
    script:
        "../workflow_scripts/plot_training.py"


rule plot_validity:
    input:
        validity=rules.gather_validity.output.table,
    output:
        beside(RUN.figure("validity"), "png", "pdf"),
    log:
        f"{LOGS}/plot_validity.log",
    benchmark:
        f"{TIMES}/plot_validity.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        delta=CONFIG.calibration.delta,
        n_variants=CONFIG.sampling.n_variants,
        code=CODE["plot_validity"],
    script:
        "../workflow_scripts/plot_validity.py"


rule plot_bounds:
    input:
        validity=rules.gather_validity.output.table,
    output:
        beside(RUN.figure("bounds"), "png", "pdf"),
    log:
        f"{LOGS}/plot_bounds.log",
    benchmark:
        f"{TIMES}/plot_bounds.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        delta=CONFIG.calibration.delta,
        n_variants=CONFIG.sampling.n_variants,
        code=CODE["plot_bounds"],
    script:
        "../workflow_scripts/plot_bounds.py"


rule tables:
    input:
        [RUN.table(name) for name in PLAN.tables],


rule figures:
    input:
        [RUN.figure(name) for name in PLAN.figures],


rule write_report:
    input:
        config=rules.save_config.output,
        tables=rules.tables.input,
        figures=rules.figures.input,
    output:
        report=RUN.report,
    log:
        f"{LOGS}/write_report.log",
    benchmark:
        f"{TIMES}/write_report.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        code=CODE["write_report"],
    script:
        "../workflow_scripts/write_report.py"


rule report:
    input:
        rules.write_report.output,
