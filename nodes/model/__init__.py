"""The MODEL: BaseModel, ModelSampling, guard."""
