# The merged configuration, the splits, and the images of every task.


rule save_config:
    output:
        f"{RUN}/config.yaml",
    params:
        text=config_text(CONFIG),
    log:
        f"{LOGS}/save_config.log",
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    script:
        "../workflow_scripts/save_config.py"


rule split_images:
    output:
        splits=f"{RUN}/splits.csv",
    params:
        settings=settings("split_images"),
        code=CODE["split_images"],
    log:
        f"{LOGS}/split_images.log",
    benchmark:
        f"{TIMES}/split_images.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    script:
        "../workflow_scripts/split_images.py"


rule prepare_images:
    input:
        splits=rules.split_images.output.splits,
    output:
        store=store(images("{split}")),
        manifest=images("{split}"),
    params:
        settings=settings("prepare_images"),
        code=CODE["prepare_images"],
    log:
        f"{LOGS}/{{task}}/prepare_images/{{split}}.log",
    benchmark:
        f"{TIMES}/prepare_images/{{task}}-{{split}}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    script:
        "../workflow_scripts/prepare_images.py"
