# The merged configuration, the splits, and the images of every task.
READERS = 4 if CONFIG.dataset.name == "folder" else 1  # threads that read and decode files; portraits are drawn by one


rule save_config:
    output:
        RUN.config,
    log:
        f"{LOGS}/save_config.log",
    benchmark:
        f"{TIMES}/save_config.tsv"
    priority: 100  # `conffusion status` reads the plan from it
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    params:
        text=config_text(CONFIG),
    script:
        "../workflow_scripts/save_config.py"


rule split_images:
    output:
        splits=RUN.splits,
    log:
        f"{LOGS}/split_images.log",
    benchmark:
        f"{TIMES}/split_images.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: READERS
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        settings=settings("split_images"),
        code=CODE["split_images"],
    script:
        "../workflow_scripts/split_images.py"


rule prepare_images:
    input:
        splits=rules.split_images.output.splits,
    output:
        store=store(RUN.images("{task}", "{split}", "{folder}")),
        manifest=RUN.images("{task}", "{split}", "{folder}"),
    log:
        f"{LOGS}/{{task}}/prepare_images/{{folder}}-{{split}}.log",
    benchmark:
        f"{TIMES}/prepare_images/{{task}}-{{folder}}-{{split}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: READERS
    resources:
        mem_mb=memory("prepare_images"),
        runtime=growing(60),
    params:
        settings=settings("prepare_images"),
        code=CODE["prepare_images"],
    script:
        "../workflow_scripts/prepare_images.py"
