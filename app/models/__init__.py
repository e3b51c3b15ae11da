"""Getting models and keeping them: safe downloads, Civitai and hub links, checks, the small files beside a model."""
